"""Collectives between ranks: the shards of a stage, and the replicas of a pipeline.

    Team              one rank: every collective is the identity
    ProcessGroupTeam  a process group (gloo, NCCL, torch's fake one)
    InProcessTeam     threads of one process, for tests with more ranks than cores (`in_process.py`)

Tokens are dealt out like cards. Of a subsequence, rank j has the tokens j, j + size, j + 2 size and
so on. A run of tokens that begins and ends at a multiple of `size` is therefore one run on every
rank. A gathered tensor holds the first rank's rows, then the second's: see `in_order`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from sppo.comm.messages import Traffic
from sppo.comm.nccl import is_nccl, use_once

_all_gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
_reduce_scatter = getattr(dist, "reduce_scatter_single", None) or dist.reduce_scatter_tensor
"""torch 2.13 has new names for both, and warns of the old ones."""


@dataclass(frozen=True)
class CollectiveWork:
    """A collective in flight. `wait` returns its result and is called once."""

    wait: Callable[[], Tensor]


class Team:
    """Ranks that call the same collectives, and wait for them, in the same order.

    The base class is a team of one rank. `traffic` counts collectives, and the bytes of the
    undivided tensor of each.
    """

    def __init__(self, size: int = 1, index: int = 0) -> None:
        self.size = size
        self.index = index
        self.traffic = Traffic()

    def all_gather(self, rows: Tensor, into: Tensor | None = None) -> CollectiveWork:
        """[n, ...] of every rank -> [size n, ...], in the order of the ranks.

        The result may be written to `into`, of which `rows` may be a view.
        """
        return CollectiveWork(lambda: rows)

    def reduce_scatter(self, rows: Tensor, into: Tensor | None = None) -> CollectiveWork:
        """Sum of [size n, ...] over the ranks; each rank gets its own [n, ...] of the sum.

        The result may be written to `into`, which may be this rank's view of `rows`.
        """
        return CollectiveWork(lambda: rows)

    def all_to_all(self, rows: Tensor) -> CollectiveWork:
        """[size n, ...], whose j-th n rows go to rank j -> [size n, ...], by sending rank."""
        return CollectiveWork(lambda: rows)

    def all_reduce(self, tensor: Tensor) -> None:
        """Sum over the ranks, in place, on all of them."""

    def connect(self, device: torch.device) -> None:
        """Before the first step: make the communicator where a backend makes it late."""

    def abort(self) -> None:
        """After an error: ranks that wait for this one fail too. A process group does so itself."""


class ProcessGroupTeam(Team):
    """The ranks of a process group, in the order of the group."""

    def __init__(self, group: dist.ProcessGroup) -> None:
        super().__init__(dist.get_world_size(group), dist.get_rank(group))
        self.group = group
        self._connected = not is_nccl(group)

    def connect(self, device: torch.device) -> None:
        if not self._connected:
            use_once(self.group, device)
            self._connected = True

    def all_gather(self, rows: Tensor, into: Tensor | None = None) -> CollectiveWork:
        if into is None:
            into = rows.new_empty((self.size * rows.shape[0], *rows.shape[1:]))
        self.traffic.count(into)
        return self._start(_all_gather, rows, into)

    def reduce_scatter(self, rows: Tensor, into: Tensor | None = None) -> CollectiveWork:
        self.traffic.count(rows)
        if into is None:
            into = rows.new_empty((rows.shape[0] // self.size, *rows.shape[1:]))
        return self._start(_reduce_scatter, rows, into)

    def all_to_all(self, rows: Tensor) -> CollectiveWork:
        self.traffic.count(rows)
        return self._start(dist.all_to_all_single, rows, rows.new_empty(rows.shape))

    def _start(self, collective: Callable[..., Any], rows: Tensor, into: Tensor) -> CollectiveWork:
        source = rows.contiguous()
        work = collective(into, source, group=self.group, async_op=True)
        return CollectiveWork(InFlight(work, source, into))

    def all_reduce(self, tensor: Tensor) -> None:
        self.traffic.count(tensor)
        dist.all_reduce(tensor, group=self.group)


class InFlight:
    """A collective on its way, with its tensors: the source must outlive the collective."""

    def __init__(self, work: dist.Work, source: Tensor, result: Tensor) -> None:
        self.work = work
        self.tensors = [source, result]

    def __call__(self) -> Tensor:
        """Wait for the result; once."""
        self.work.wait()
        result = self.tensors.pop()
        self.tensors.clear()
        return result


def in_order(gathered: Tensor, size: int) -> Tensor:
    """Rows [l, ...] as a team of `size` gathers them -> rows by position."""
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
