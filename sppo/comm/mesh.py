"""Who is who: ranks by replica, stage and shard, and what connects them.

Ranks that divide the weights of a stage are neighbours (they talk most, and share a node where they
can). Then come the ranks of the stage with the same weights, the stages of a pipeline, and the
replicas.
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
from sppo.comm.stage_ranks import StageRanks
from sppo.plan.plan import Plan

Axis = Literal["replica", "stage", "context", "ulysses", "shard"]

_AXES: tuple[Axis, ...] = ("replica", "stage", "context", "ulysses", "shard")

COPIES: tuple[Axis, ...] = ("replica", "context", "ulysses")
"""Ranks that differ in these have the same weights."""


class MeshCoordinate(NamedTuple):
    """One rank's coordinates in a plan's degrees; `shard` is among all ranks of the stage."""

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


def groups_along(plan: Plan, *axes: Axis) -> list[list[int]]:
    """All ranks in groups whose places differ in these axes only, in their order.

    "shard": they divide a stage's weights. "ulysses", "context": they have the same weights and
    divide the tokens of a subsequence, "context" with the same heads in attention. "stage": a
    pipeline. "replica": they have the same weights and train on different sequences.
    """
    stages = plan.data_parallel, plan.pipeline_parallel
    division = plan.context_parallel, plan.ulysses_parallel, plan.tensor_parallel
    mesh = _mesh(plan).reshape(*stages, *division)
    numbers = [_AXES.index(axis) for axis in axes]
    size = int(np.prod([mesh.shape[number] for number in numbers]))
    moved = np.moveaxis(mesh, numbers, range(-len(numbers), 0))
    groups: list[list[int]] = moved.reshape(-1, size).tolist()
    return groups


@dataclass(frozen=True, kw_only=True)
class RankGroups:
    """One rank's messages and collectives: with its pipeline, its stage, and all.

    `shards` divide the weights. `ulysses` and `context` have the same weights in the stage,
    `context` also the same heads, and `copies` are all ranks with the same weights.
    """

    coordinate: MeshCoordinate
    transport: Transport
    shards: Team
    ulysses: Team
    context: Team
    copies: Team
    everyone: Team

    def connect(self, connections: Sequence[Connection], device: torch.device) -> None:
        """Make all communicators, before the first receive is posted: first those of teams.

        Collective: all ranks call it at the same time, with the connections of their pipeline.
        """
        for team in (self.ulysses, self.context, self.copies, self.shards, self.everyone):
            team.connect(device)
        self.transport.connect(connections, device)

    @property
    def stage_ranks(self) -> StageRanks:
        """The ranks of the stage."""
        return StageRanks(shards=self.shards, ulysses=self.ulysses, context=self.context)

    def abort(self) -> None:
        """After an error: ranks that wait for this one fail too."""
        teams = self.shards, self.ulysses, self.context, self.copies, self.everyone
        for member in (self.transport, *teams):
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
    ulysses = _group_team(groups_along(plan, "ulysses"), timeout)
    context = _group_team(groups_along(plan, "context"), timeout)
    inner = [team for team in (ulysses, context) if isinstance(team, ProcessGroupTeam)]
    if plan.data_parallel > 1 or len(inner) > 1:
        copies = _group_team(groups_along(plan, *COPIES), timeout)
    else:  # the same ranks share a group, but count their traffic apart
        copies = ProcessGroupTeam(inner[0].group) if inner else Team()
    return RankGroups(
        coordinate=coordinate_of(plan, rank),
        transport=GroupTransport(pipeline, timeout),
        shards=_group_team(groups_along(plan, "shard"), timeout),
        ulysses=ulysses,
        context=context,
        copies=copies,
        everyone=ProcessGroupTeam(world),
    )


def _group_team(groups: Sequence[list[int]], timeout: timedelta | None) -> Team:
    if len(groups[0]) == 1:
        return Team()
    return ProcessGroupTeam(team_group(groups, timeout))
