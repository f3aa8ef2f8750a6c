"""Who is who: ranks by replica, stage and shard, and what connects them.

Shards of a stage are neighbours (they talk most, and share a node where they can), then come the
stages of a pipeline, then the replicas.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Literal, NamedTuple

import numpy as np
import torch
import torch.distributed as dist

from sppo.comm.collectives import ProcessGroupTeam, Team
from sppo.comm.messages import Connection, GroupTransport, Transport
from sppo.comm.nccl import team_group
from sppo.plan.plan import Plan

Axis = Literal["replica", "stage", "shard"]


class MeshCoordinate(NamedTuple):
    """One rank's coordinates in a plan's degrees."""

    replica: int
    stage: int
    shard: int


def _mesh(plan: Plan) -> np.ndarray:
    """The ranks by [replica, stage, shard]."""
    degrees = plan.data_parallel, plan.pipeline_parallel, plan.sequence_parallel
    return np.arange(plan.ranks).reshape(degrees)


def coordinate_of(plan: Plan, rank: int) -> MeshCoordinate:
    return MeshCoordinate(*map(int, np.unravel_index(rank, _mesh(plan).shape)))


def rank_of(plan: Plan, coordinate: MeshCoordinate) -> int:
    """The inverse of `coordinate_of`."""
    return int(_mesh(plan)[coordinate])


def groups_along(plan: Plan, axis: Axis) -> list[list[int]]:
    """All ranks in groups whose coordinates differ in one axis only, in its order.

    "shard": they share a stage's weights, heads and tokens. "stage": a pipeline. "replica": they
    have the same weights and train on different sequences.
    """
    mesh = np.moveaxis(_mesh(plan), MeshCoordinate._fields.index(axis), -1)
    groups: list[list[int]] = mesh.reshape(-1, mesh.shape[-1]).tolist()
    return groups


@dataclass(frozen=True, kw_only=True)
class RankGroups:
    """One rank's messages and collectives: with its pipeline, its stage, its replicas, all."""

    coordinate: MeshCoordinate
    transport: Transport
    shards: Team
    replicas: Team
    everyone: Team

    def connect(self, connections: Sequence[Connection], device: torch.device) -> None:
        """Make all communicators, before the first receive is posted: first those of teams.

        Collective: all ranks call it at the same time, with the connections of their pipeline.
        """
        for team in (self.shards, self.replicas, self.everyone):
            team.connect(device)
        self.transport.connect(connections, device)

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
    rank = dist.get_rank()
    (pipeline,) = (ranks for ranks in groups_along(plan, "stage") if rank in ranks)
    return RankGroups(
        coordinate=coordinate_of(plan, rank),
        transport=GroupTransport(pipeline, timeout),
        shards=_group_team(groups_along(plan, "shard"), timeout),
        replicas=_group_team(groups_along(plan, "replica"), timeout),
        everyone=ProcessGroupTeam(world),
    )


def _group_team(groups: Sequence[list[int]], timeout: timedelta | None) -> Team:
    if len(groups[0]) == 1:
        return Team()
    return ProcessGroupTeam(team_group(groups, timeout))
