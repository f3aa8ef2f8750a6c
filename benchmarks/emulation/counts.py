"""From an accounted step to the numbers of an emulation (or of a real step, to compare them)."""

from __future__ import annotations

from benchmarks.accounting.accounting import Accounting
from benchmarks.accounting.memory_timeline import StepMemory
from benchmarks.accounting.operators import Message, sent_bytes
from benchmarks.emulation.result import Counts, Link, Operations, Traffic
from benchmarks.job import ATTENTION, MASKED
from sppo.config.workload import Cluster


def counts_of(
    accounting: Accounting, memory: StepMemory, before_step_bytes: int, cluster: Cluster
) -> Counts:
    """All counts of one step of one rank. before_step_bytes: on the device when the step began."""
    assert memory.peak_bytes == accounting.peak_bytes, "the journal missed a change"
    operations = operations_of(accounting)
    communication = traffic_of(accounting, cluster)
    by_link: dict[Link, int] = {"in node": 0, "between nodes": 0}
    for traffic in communication:
        by_link[traffic.link] += traffic.bytes
    return Counts(
        peak_device_bytes=memory.peak_bytes,
        peak_host_bytes=accounting.host_peak_bytes,
        activation_peak_bytes=accounting.activation_peak_bytes,
        before_step_bytes=before_step_bytes,
        peak_by_kind_bytes=memory.peak_by_kind,
        at_peak_by_kind_bytes=memory.at_peak_by_kind,
        peak_at=memory.peak_at,
        flops=operations.matmul + operations.attention_causal,
        flops_by_operation=operations,
        flops_by_operator=dict(accounting.flops),
        communication_bytes=sum(by_link.values()),
        communication_by_link_bytes=by_link,
        communication=communication,
        copied_to_host_bytes=accounting.copied_bytes["to_host"],
        copied_from_host_bytes=accounting.copied_bytes["from_host"],
    )


def operations_of(accounting: Accounting) -> Operations:
    """FLOPs of matmuls, of attention, and of recomputation.

    A backward has two products for each product of the forward; more products are recomputed. A
    forward operator of attention inside a backward is recomputed.
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
    """Every kind of message of the step, the most bytes first; a group of one rank sends none."""
    messages = accounting.messages
    traffic = [
        Traffic(
            operation=message.operation,
            group=group_text(message),
            group_ranks=len(message.ranks),
            link=link_of(message, cluster),
            calls=calls,
            bytes=messages.bytes[message],
            sent_bytes=sent_bytes(message, messages.bytes[message]),
        )
        for message, calls in messages.calls.items()
        if len(message.ranks) > 1
    ]
    return sorted(traffic, key=lambda item: (-item.bytes, item.operation, item.group))


def link_of(message: Message, cluster: Cluster) -> Link:
    """The slowest link that the message crosses."""
    nodes = {rank // cluster.ranks_per_node for rank in message.ranks}
    return "in node" if len(nodes) == 1 else "between nodes"


def group_text(message: Message) -> str:
    """ "0-7", "0-24 by 8", "0 > 8", or the ranks one by one."""
    ranks = message.ranks
    if message.operation in ("send", "recv"):
        return " > ".join(map(str, ranks))
    step = ranks[1] - ranks[0] if len(ranks) > 2 else 0
    if step > 0 and ranks == tuple(range(ranks[0], ranks[-1] + 1, step)):
        return f"{ranks[0]}-{ranks[-1]}" + (f" by {step}" if step > 1 else "")
    return ",".join(map(str, ranks))
