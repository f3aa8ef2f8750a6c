"""Who is who: ranks by replica, stage and shard, and what connects them.

Shards of a stage are neighbours (they talk most, and share a node where they can), then come the
stages of a pipeline, then the replicas.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

import torch.distributed as dist

from sppo.comm.collectives import Alone, ProcessGroupTeam, Team
from sppo.comm.messages import GroupTransport, Transport
from sppo.config.sharding import Shard
from sppo.plan.plan import Plan


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


def shard_ranks(plan: Plan, coordinate: MeshCoordinate) -> list[int]:
    """The ranks that share a stage's weights, heads and tokens."""
    return [
        _at(plan, coordinate.replica, coordinate.stage, j) for j in range(plan.sequence_parallel)
    ]


def replica_ranks(plan: Plan, coordinate: MeshCoordinate) -> list[int]:
    """The ranks that have the same weights and other sequences."""
    return [_at(plan, i, coordinate.stage, coordinate.shard) for i in range(plan.data_parallel)]


def pipeline(plan: Plan, coordinate: MeshCoordinate) -> list[int]:
    """The ranks that hand subsequences on, by stage."""
    return [
        _at(plan, coordinate.replica, p, coordinate.shard) for p in range(plan.pipeline_parallel)
    ]


def _at(plan: Plan, replica: int, stage: int, shard: int) -> int:
    return rank_of(plan, MeshCoordinate(replica=replica, stage=stage, shard=shard))


def mesh_coordinates(plan: Plan) -> list[MeshCoordinate]:
    """Of every rank, by rank."""
    return [coordinate_of(plan, rank) for rank in range(plan.ranks)]


@dataclass(frozen=True, kw_only=True)
class RankGroups:
    """What one rank speaks through."""

    coordinate: MeshCoordinate
    transport: Transport
    shards: Team
    replicas: Team
    everyone: Team

    @property
    def shard(self) -> Shard:
        return Shard(self.coordinate.shard, self.shards.size)

    def abandon(self) -> None:
        """After an error: whoever waits for this rank fails too."""
        self.transport.abandon()
        for team in (self.shards, self.replicas, self.everyone):
            team.abandon()


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
    world, mine = dist.group.WORLD, dist.get_rank()
    assert world is not None
    coordinate = coordinate_of(plan, mine)
    coordinates = mesh_coordinates(plan)
    shards = [shard_ranks(plan, one) for one in coordinates if one.shard == 0]
    replicas = [replica_ranks(plan, one) for one in coordinates if one.replica == 0]
    return RankGroups(
        coordinate=coordinate,
        transport=GroupTransport(pipeline(plan, coordinate), timeout),
        shards=_group_team(shards, timeout),
        replicas=_group_team(replicas, timeout),
        everyone=ProcessGroupTeam(world),
    )


def _group_team(teams: Sequence[list[int]], timeout: timedelta | None) -> Team:
    if len(teams[0]) == 1:
        return Alone()
    group, _ = dist.new_subgroups_by_enumeration(teams, timeout=timeout)
    return ProcessGroupTeam(group)
