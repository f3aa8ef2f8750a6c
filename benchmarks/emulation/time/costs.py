"""Seconds of counted work on a hardware profile: one rank's operations and messages.

No torch. Every rule and its source: docs/emulation.md, "Time".
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial

from benchmarks.emulation.result import Counts, Traffic
from benchmarks.job import ATTENTION
from sppo.config.hardware import Hardware
from sppo.config.workload import Cluster

STATE = ("weights", "gradients", "optimizer")


@dataclass(frozen=True, kw_only=True)
class ComputeSeconds:
    """A rank's products of a whole step: first forwards, backwards and recomputation."""

    forward: float
    backward: float
    recompute: float

    @property
    def total(self) -> float:
        """Seconds of all products."""
        return self.forward + self.backward + self.recompute


def compute_seconds(
    counts: Counts, profile: Hardware, *, tokens: int, layer_passes: int
) -> ComputeSeconds:
    """Counted FLOPs through the rates that one device reaches at `tokens` tokens.

    `layer_passes`: layers of this rank times the sequences that pass them. Launch overhead is
    charged once a forward, twice a backward, and by its FLOPs for recomputation. A flash backward's
    five products stand for two forwards, as a backward does in the rates. Attention is known by its
    operators; dense recomputation is the rest of the FLOPs that emulation counts as recomputed.
    """
    operations = counts.flops_by_operation
    flash_backward = sum(
        count
        for name, count in counts.flops_by_operator.items()
        if ATTENTION in name and name.endswith("_backward")
    )
    attention = 2 * flash_backward // 5
    attention_again = max(0, operations.attention_causal - flash_backward - attention)
    dense_again = max(0, operations.recomputed - attention_again)
    dense = (operations.matmul - dense_again) // 3

    rate = partial(profile.rate, tokens)
    dense_rate, attention_rate = rate("dense_forward"), rate("attention_forward")
    overhead = layer_passes * profile.layer_overhead_seconds
    first = dense + attention
    share = (dense_again + attention_again) / first if first else 0.0
    return ComputeSeconds(
        forward=overhead + dense / dense_rate + attention / attention_rate,
        backward=2
        * (overhead + dense / rate("dense_backward") + attention / rate("attention_backward")),
        recompute=share * overhead + dense_again / dense_rate + attention_again / attention_rate,
    )


def message_seconds(traffic: Traffic, profile: Hardware, cluster: Cluster) -> float:
    """All calls of one kind of message, one after the other; a receive is charged to its sender.

    Between nodes a rank has its share of its node's network. A gather or a sum crosses from node to
    node once for all ranks of a node: the group has the shares of all its ranks there. An
    all-to-all sends to every rank separately. A profile without nodes has one link.
    """
    if traffic.operation == "recv":
        return 0.0
    between, latency = profile.internode_bytes_per_second, profile.internode_latency_seconds
    p2p, collective = profile.p2p_bytes_per_second, profile.collective_bytes_per_second
    near = p2p if traffic.operation == "send" else collective
    if traffic.link == "in node" or between is None or latency is None:
        return traffic.calls * profile.p2p_latency_seconds + traffic.sent_bytes / near
    members = ranks_of(traffic.group)
    nodes = [rank // cluster.ranks_per_node for rank in members]
    neighbours = max(nodes.count(node) for node in set(nodes))
    if traffic.operation == "all_to_all":
        away = (len(members) - neighbours) / (len(members) - 1)
        transfer = max(away / between, (1 - away) / near) * traffic.sent_bytes
    elif traffic.operation == "send":
        transfer = traffic.sent_bytes / between
    else:
        transfer = traffic.sent_bytes / min(near, neighbours * between)
    return traffic.calls * latency + transfer


def ranks_of(group: str) -> list[int]:
    """The ranks of a group as the record writes it: "0-7", "0-24 by 8", "0,1,5" or "0 > 8"."""
    if "-" not in group:
        return [int(rank) for rank in group.replace(" > ", ",").split(",")]
    ends, _, step = group.partition(" by ")
    first, last = ends.split("-")
    return list(range(int(first), int(last) + 1, int(step or 1)))


def by_link(traffic: Iterable[Traffic], profile: Hardware, cluster: Cluster) -> dict[str, float]:
    """Seconds of a rank's messages by the link that carries them."""
    seconds = {"in node": 0.0, "between nodes": 0.0}
    for message in traffic:
        seconds[message.link] += message_seconds(message, profile, cluster)
    return seconds


def copy_seconds(counts: Counts, profile: Hardware) -> float:
    """All copies between device and host tier, one after the other."""
    to_host_seconds = counts.copied_to_host_bytes / profile.d2h_bytes_per_second
    return to_host_seconds + counts.copied_from_host_bytes / profile.h2d_bytes_per_second


def optimizer_seconds(counts: Counts, profile: Hardware) -> float:
    """Weights, gradients and optimizer state of the rank, read and written once."""
    state_bytes = sum(counts.peak_by_kind_bytes.get(kind, 0) for kind in STATE)
    return 2 * state_bytes / profile.memory_bytes_per_second
