"""From an accounted step to the numbers of an emulation (or of a real step, to compare them)."""

from __future__ import annotations

from collections import Counter

from benchmarks.accounting.accounting import Accounting
from benchmarks.accounting.memory_timeline import Told
from benchmarks.accounting.operators import ATTENTION, Message, sent_bytes
from benchmarks.emulation.result import Counts, Link, Operations, Traffic
from benchmarks.job import MASKED
from sppo.config.workload import Cluster


def counts_of(
    accounting: Accounting, told: Told, before_step_bytes: int, cluster: Cluster
) -> Counts:
    """Everything counted in one step of one rank."""
    assert told.peak_bytes == accounting.peak_bytes, "the journal missed a change"
    operations = operations_of(accounting)
    traffic = traffic_of(accounting, cluster)
    by_link: Counter[Link] = Counter()
    for item in traffic:
        by_link[item.link] += item.bytes
    return Counts(
        peak_device_bytes=told.peak_bytes,
        peak_host_bytes=accounting.host_peak_bytes,
        activation_peak_bytes=accounting.activation_peak_bytes,
        before_step_bytes=before_step_bytes,
        peak_by_kind_bytes=told.peak_by_kind,
        at_peak_by_kind_bytes=told.at_peak_by_kind,
        peak_at=told.moment,
        flops=operations.matmul + operations.attention_causal,
        flops_by_operation=operations,
        flops_by_operator=dict(accounting.flops),
        communication_bytes=sum(item.bytes for item in traffic),
        communication_by_link_bytes={
            "in node": by_link["in node"],
            "between nodes": by_link["between nodes"],
        },
        communication=traffic,
        copied_to_host_bytes=accounting.copied_bytes["to_host"],
        copied_from_host_bytes=accounting.copied_bytes["from_host"],
    )


def operations_of(accounting: Accounting) -> Operations:
    """Matmuls apart from attention, and what was computed a second time.

    Inside backward passes: two products for each of the forward, and what is recomputed; and the
    forward operators of attention, which are always recomputed there.
    """
    matmul = matmul_inside = recomputed = causal = full = 0
    for name, count in accounting.flops.items():
        inside = accounting.flops_in_backward[name]
        if ATTENTION not in name:
            matmul += count
            matmul_inside += inside
            continue
        full += count
        if name.endswith(MASKED):
            continue
        causal += count
        if not name.endswith("_backward"):
            recomputed += inside
    recomputed += max(0, matmul_inside - 2 * (matmul - matmul_inside))
    return Operations(
        matmul=matmul, attention_causal=causal, attention_full=full, recomputed=recomputed
    )


def traffic_of(accounting: Accounting, cluster: Cluster) -> list[Traffic]:
    """Every kind of message of the step, the most bytes first; a rank alone sends nothing."""
    found = []
    for message, calls in accounting.message_calls.items():
        if len(message.ranks) == 1:
            continue
        size_bytes = accounting.message_bytes[message]
        traffic = Traffic(
            operation=message.operation,
            group=group_text(message),
            group_ranks=len(message.ranks),
            link=link_of(message, cluster),
            calls=calls,
            bytes=size_bytes,
            sent_bytes=sent_bytes(message, size_bytes),
        )
        found.append(traffic)
    return sorted(found, key=lambda item: (-item.bytes, item.operation, item.group))


def link_of(message: Message, cluster: Cluster) -> Link:
    nodes = {rank // cluster.ranks_per_node for rank in message.ranks}
    return "in node" if len(nodes) == 1 else "between nodes"


def group_text(message: Message) -> str:
    """ "0-7", "0-24 by 8", "0 > 8", or the ranks one by one."""
    ranks = message.ranks
    if message.operation in ("send", "recv"):
        return " > ".join(map(str, ranks))
    if len(ranks) < 3:
        return ",".join(map(str, ranks))
    step = ranks[1] - ranks[0]
    if step > 0 and ranks == tuple(range(ranks[0], ranks[-1] + 1, step)):
        return f"{ranks[0]}-{ranks[-1]}" + (f" by {step}" if step > 1 else "")
    return ",".join(map(str, ranks))
