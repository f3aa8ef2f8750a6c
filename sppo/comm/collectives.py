"""Ranks that do the same thing on their shares of it: shards of a stage, replicas of a pipeline.

    Alone           one rank: nothing moves
    ProcessGroupTeam       a process group (gloo, NCCL, torch's fake one)
    InProcessTeam   threads of one process, for tests with more ranks than cores (`in_process.py`)

Tokens are dealt out like cards: of a subsequence, rank j has the tokens j, j + size, j + 2 size and
so on, so that a run of them that begins and ends at a multiple of `size` is one run on every rank.
A gathered tensor holds the first rank's rows, then the second's: see `in_order`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch.distributed as dist
from torch import Tensor

from sppo.comm.messages import Traffic

_all_gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
_reduce_scatter = getattr(dist, "reduce_scatter_single", None) or dist.reduce_scatter_tensor
"""torch 2.13 has new names for them, and warns of the old ones."""


class CollectiveWork(Protocol):
    """A collective on its way; `wait` once."""

    def wait(self) -> Tensor: ...


class Team(Protocol):
    """All members call the same methods in the same order, and wait in the same order.

    `traffic` counts collectives, and the bytes of the undivided tensor of each.
    """

    size: int
    index: int
    traffic: Traffic

    def all_gather(self, rows: Tensor, into: Tensor | None = None) -> CollectiveWork:
        """[n, ...] of every member -> [size n, ...], in the order of the members."""
        ...

    def reduce_scatter(self, rows: Tensor, into: Tensor | None = None) -> CollectiveWork:
        """Sum over the members of [size n, ...]; each gets its own [n, ...] of it.

        What is gathered may lie where `into` wants it, and the sum go where its own rows lie.
        """
        ...

    def all_reduce(self, tensor: Tensor) -> None:
        """Sum over the members, in place, on all of them."""
        ...

    def abandon(self) -> None:
        """After an error: members that wait for this one fail too."""
        ...


@dataclass(frozen=True)
class _Here:
    """There was nothing to wait for."""

    tensor: Tensor

    def wait(self) -> Tensor:
        return self.tensor


class Alone:
    """A team of one."""

    size = 1
    index = 0

    def __init__(self) -> None:
        self.traffic = Traffic()

    def all_gather(self, rows: Tensor, into: Tensor | None = None) -> CollectiveWork:
        return _Here(rows)

    def reduce_scatter(self, rows: Tensor, into: Tensor | None = None) -> CollectiveWork:
        return _Here(rows)

    def all_reduce(self, tensor: Tensor) -> None:
        """The sum of one."""

    def abandon(self) -> None:
        """Nobody waits."""


@dataclass(frozen=True)
class _Working:
    """`source` must outlive the collective."""

    work: dist.Work
    source: Tensor
    result: Tensor

    def wait(self) -> Tensor:
        self.work.wait()
        return self.result


class ProcessGroupTeam:
    """The ranks of a process group, in the order of their numbers in it."""

    def __init__(self, group: dist.ProcessGroup) -> None:
        self.group = group
        self.size = dist.get_world_size(group)
        self.index = dist.get_rank(group)
        self.traffic = Traffic()

    def all_gather(self, rows: Tensor, into: Tensor | None = None) -> CollectiveWork:
        result = into
        if result is None:
            result = rows.new_empty((self.size * rows.shape[0], *rows.shape[1:]))
        self.traffic.count(result)
        source = rows.contiguous()
        work = _all_gather(result, source, group=self.group, async_op=True)
        assert work is not None
        return _Working(work, source, result)

    def reduce_scatter(self, rows: Tensor, into: Tensor | None = None) -> CollectiveWork:
        self.traffic.count(rows)
        source = rows.contiguous()
        result = into
        if result is None:
            result = rows.new_empty((rows.shape[0] // self.size, *rows.shape[1:]))
        work = _reduce_scatter(result, source, group=self.group, async_op=True)
        assert work is not None
        return _Working(work, source, result)

    def all_reduce(self, tensor: Tensor) -> None:
        self.traffic.count(tensor)
        dist.all_reduce(tensor, group=self.group)

    def abandon(self) -> None:
        """The process group tells them."""


def in_order(gathered: Tensor, size: int) -> Tensor:
    """Rows [l, ...] as a team of `size` gathers them -> by position."""
    if size == 1:
        return gathered
    dealt: Tensor = gathered.unflatten(0, (size, -1))
    return dealt.transpose(0, 1).flatten(0, 1)


def as_gathered(rows: Tensor, size: int) -> Tensor:
    """The inverse of `in_order`."""
    if size == 1:
        return rows
    dealt: Tensor = rows.unflatten(0, (-1, size))
    return dealt.transpose(0, 1).flatten(0, 1)
