"""What counted work takes on a hardware profile: one rank's operations and messages in seconds.

No torch. Every rule and its source: docs/emulation.md, "Time".
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sppo.config.hardware import Hardware
from sppo.config.workload import Cluster

if TYPE_CHECKING:
    from benchmarks.emulation.result import Counts, Traffic

ATTENTION = "_scaled_dot_product_"
STATE = ("weights", "gradients", "optimizer")


@dataclass(frozen=True, kw_only=True)
class ComputeSeconds:
    """A rank's products of a whole step: first forwards, backwards, and what is made again.

    again_share: FLOPs of the latter over those of the first forwards.
    """

    forward: float
    backward: float
    again: float
    again_share: float

    @property
    def total(self) -> float:
        return self.forward + self.backward + self.again


@dataclass(frozen=True, kw_only=True)
class _Split:
    """FLOPs of a step in the convention of the rates: a backward is twice its forward."""

    dense: int
    dense_again: int
    attention: int
    attention_again: int


def compute_seconds(
    counts: Counts, profile: Hardware, *, tokens: int, layer_passes: int
) -> ComputeSeconds:
    """Counted FLOPs through the rates that one device reaches at `tokens` tokens.

    `layer_passes` are the layers of this rank times the sequences that pass it: launch overhead is
    charged once a forward, twice a backward, and by its FLOPs for what is made again.
    """
    flops = _split(counts)
    dense, attention = (
        profile.rate(tokens, kind) for kind in ("dense_forward", "attention_forward")
    )
    dense_back, attention_back = (
        profile.rate(tokens, kind) for kind in ("dense_backward", "attention_backward")
    )
    overhead = layer_passes * profile.layer_overhead_seconds
    first = flops.dense + flops.attention
    again_share = (flops.dense_again + flops.attention_again) / first if first else 0.0
    return ComputeSeconds(
        forward=overhead + flops.dense / dense + flops.attention / attention,
        backward=2 * (overhead + flops.dense / dense_back + flops.attention / attention_back),
        again=again_share * overhead
        + flops.dense_again / dense
        + flops.attention_again / attention,
        again_share=again_share,
    )


def _split(counts: Counts) -> _Split:
    """First forwards and what is made again; a flash backward's five products stand for two pairs.

    Attention is told apart by its operators; the products by what emulation counts as recomputed.
    """
    operations = counts.flops_by_operation
    backward = sum(
        count
        for name, count in counts.flops_by_operator.items()
        if ATTENTION in name and name.endswith("_backward")
    )
    attention = 2 * backward // 5
    attention_again = max(0, operations.attention_causal - backward - attention)
    dense_again = max(0, operations.recomputed - attention_again)
    return _Split(
        dense=(operations.matmul - dense_again) // 3,
        dense_again=dense_again,
        attention=attention,
        attention_again=attention_again,
    )


def message_seconds(traffic: Traffic, profile: Hardware, cluster: Cluster) -> float:
    """All calls of one kind of message, one after the other; a receive is charged to its sender.

    Between nodes a rank has its share of its node's network. A gather or a sum crosses from node to
    node once for all ranks of a node, so its group has the shares of all its ranks there; an
    all-to-all sends to every rank apart. A profile without nodes has one link.
    """
    if traffic.operation == "recv":
        return 0.0
    between, latency = profile.internode_bytes_per_second, profile.internode_latency_seconds
    near = profile.collective_bytes_per_second
    if traffic.operation == "send":
        near = profile.p2p_bytes_per_second
    if traffic.link == "in node" or between is None or latency is None:
        return traffic.calls * profile.p2p_latency_seconds + traffic.sent_bytes / near
    members = ranks_of(traffic.group)
    nodes = [rank // cluster.ranks_per_node for rank in members]
    neighbours = max(nodes.count(node) for node in set(nodes))
    if traffic.operation == "all_to_all":
        away = (len(members) - neighbours) / (len(members) - 1)
        moved = max(away / between, (1 - away) / near) * traffic.sent_bytes
    elif traffic.operation == "send":
        moved = traffic.sent_bytes / between
    else:
        moved = traffic.sent_bytes / min(near, neighbours * between)
    return traffic.calls * latency + moved


def ranks_of(group: str) -> list[int]:
    """The ranks of a group as it is written: "0-7", "0-24 by 8", "0,1,5" or "0 > 8"."""
    if " > " in group:
        return [int(rank) for rank in group.split(" > ")]
    if "-" not in group:
        return [int(rank) for rank in group.split(",")]
    ends, _, step = group.partition(" by ")
    first, last = ends.split("-")
    return list(range(int(first), int(last) + 1, int(step or 1)))


def by_link(traffic: Iterable[Traffic], profile: Hardware, cluster: Cluster) -> dict[str, float]:
    """Seconds of a rank's messages by the link that carries them."""
    found = {"in node": 0.0, "between nodes": 0.0}
    for item in traffic:
        found[item.link] += message_seconds(item, profile, cluster)
    return found


def optimizer_seconds(counts: Counts, profile: Hardware) -> float:
    """Weights, gradients and optimizer state of the rank, read and written once."""
    state_bytes = sum(counts.peak_by_kind_bytes.get(kind, 0) for kind in STATE)
    return 2 * state_bytes / profile.memory_bytes_per_second
