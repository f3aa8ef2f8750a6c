"""Who is who: ranks by replica, stage and shard, and what connects them.

Shards of a stage are neighbours (they talk most, and share a node where they can), then come the
stages of a pipeline, then the replicas.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Literal

import torch.distributed as dist

from sppo.comm.collectives import ProcessGroupTeam, Team
from sppo.comm.messages import GroupTransport, Transport
from sppo.config.sharding import Shard
from sppo.plan.plan import Plan

Axis = Literal["replica", "stage", "shard"]


@dataclass(frozen=True, kw_only=True)
class MeshCoordinate:
    """One rank's coordinates in a plan's degrees."""

    replica: int
    stage: int
    shard: int


def coordinate_of(plan: Plan, rank: int) -> MeshCoordinate:
    replica, inside = divmod(rank, plan.pipeline_parallel * plan.sequence_parallel)
    stage, shard = divmod(inside, plan.sequence_parallel)
    return MeshCoordinate(replica=replica, stage=stage, shard=shard)


def rank_of(plan: Plan, coordinate: MeshCoordinate) -> int:
    """The inverse of `coordinate_of`."""
    stage = coordinate.replica * plan.pipeline_parallel + coordinate.stage
    return stage * plan.sequence_parallel + coordinate.shard


def ranks_along(plan: Plan, coordinate: MeshCoordinate, axis: Axis) -> list[int]:
    """The ranks whose coordinates differ in one axis only, in its order.

    "shard": they share a stage's weights, heads and tokens. "stage": a pipeline. "replica": they
    have the same weights and train on different sequences.
    """
    degrees = {
        "replica": plan.data_parallel,
        "stage": plan.pipeline_parallel,
        "shard": plan.sequence_parallel,
    }
    places = [replace(coordinate, **{axis: place}) for place in range(degrees[axis])]
    return [rank_of(plan, place) for place in places]


def groups_along(plan: Plan, axis: Axis) -> list[list[int]]:
    """All ranks of the plan in groups by `ranks_along`."""
    coordinates = (coordinate_of(plan, rank) for rank in range(plan.ranks))
    firsts = [coordinate for coordinate in coordinates if getattr(coordinate, axis) == 0]
    return [ranks_along(plan, first, axis) for first in firsts]


@dataclass(frozen=True, kw_only=True)
class RankGroups:
    """One rank's messages and collectives: with its pipeline, its stage, its replicas, all."""

    coordinate: MeshCoordinate
    transport: Transport
    shards: Team
    replicas: Team
    everyone: Team

    @property
    def shard(self) -> Shard:
        return Shard(self.coordinate.shard, self.shards.size)

    def abort(self) -> None:
        """After an error: ranks that wait for this one fail too."""
        for member in (self.transport, self.shards, self.replicas, self.everyone):
            member.abort()


def join_groups(plan: Plan, timeout: timedelta | None = None) -> RankGroups:
    """Connect this process by the default process group and groups of its own.

    Collective: every rank of the default group calls it at the same time. Raises ValueError if
    there are not as many ranks as the plan needs.
    """
    ranks = dist.get_world_size()
    if ranks != plan.ranks:
        raise ValueError(
            f"the plan needs {plan.ranks} ranks ({plan.degrees_words}), not {ranks}: start as many"
        )
    world = dist.group.WORLD
    assert world is not None
    coordinate = coordinate_of(plan, dist.get_rank())
    return RankGroups(
        coordinate=coordinate,
        transport=GroupTransport(ranks_along(plan, coordinate, "stage"), timeout),
        shards=_group_team(groups_along(plan, "shard"), timeout),
        replicas=_group_team(groups_along(plan, "replica"), timeout),
        everyone=ProcessGroupTeam(world),
    )


def _group_team(groups: Sequence[list[int]], timeout: timedelta | None) -> Team:
    if len(groups[0]) == 1:
        return Team()
    group, _ = dist.new_subgroups_by_enumeration(groups, timeout=timeout)
    return ProcessGroupTeam(group)
