"""Seconds of collectives by the links that carry them. The same rules hold for every system.

Between nodes a rank has its share of its node's network. A gather or a sum crosses from node to
node once for all ranks of a node. So a group has the shares of all its ranks there. An all-to-all
sends to every rank separately.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from sppo.config.hardware import Hardware


class Group(NamedTuple):
    """Ranks of a collective, by their places in the cluster.

    Members of a run are `apart` ranks from each other. The group lies within `span` ranks. runs:
    runs in the span, one in each replica.
    """

    ranks: int
    apart: int
    span: int
    runs: int = 1

    def in_node(self, profile: Hardware) -> int:
        """Members in a node, at most; all of them without links between nodes."""
        node = profile.ranks_per_node
        if self.span <= node or profile.internode_bytes_per_second is None:
            return self.ranks
        of_run = max(1, min(self.ranks // self.runs, node // self.apart))
        return min(self.ranks, of_run * max(1, node * self.runs // self.span))


def tensor_group(tensor: int) -> Group:
    """Ranks that divide the weights of a stage: neighbours."""
    return Group(tensor, 1, tensor)


def ulysses_group(shards: int, ulysses: int, context: int) -> Group:
    """Ranks of a stage of `shards` ranks that exchange tokens for heads."""
    heads = shards // context
    return Group(ulysses, heads // ulysses, heads)


def context_group(shards: int, context: int) -> Group:
    """Ranks of a stage with the same heads."""
    return Group(context, shards // context, shards)


def copies_group(shards: int, tensor: int, stages: int, replicas: int) -> Group:
    """Ranks with the same weights, of all replicas."""
    span = shards if replicas == 1 else shards * stages * replicas
    return Group(shards // tensor * replicas, tensor, span, replicas)


def gather_seconds(profile: Hardware, group: Group, whole_bytes: Any) -> Any:
    """An all_gather to so many bytes on every rank, or a reduce_scatter of so many."""
    if group.ranks == 1:
        return 0.0
    near, between = profile.collective_bytes_per_second, profile.internode_bytes_per_second
    members = group.in_node(profile)
    rate = near if members == group.ranks else min(near, members * between)  # type: ignore[operator]
    return whole_bytes * (group.ranks - 1) / group.ranks / rate


def all_to_all_seconds(profile: Hardware, group: Group, whole_bytes: Any) -> Any:
    """An all_to_all in which every rank has so many bytes, its own part included."""
    if group.ranks == 1:
        return 0.0
    near, between = profile.collective_bytes_per_second, profile.internode_bytes_per_second
    others = group.ranks - 1
    away = (group.ranks - group.in_node(profile)) / others
    slowest = (1 - away) / near
    if away:
        slowest = max(slowest, away / between)  # type: ignore[operator]
    return whole_bytes * others / group.ranks * slowest
