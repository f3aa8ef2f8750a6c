"""All ranks as threads of one process: their messages, collectives and the threads."""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import ExitStack
from itertools import permutations, product
from threading import BrokenBarrierError
from typing import TypeVar

import torch
from torch import Tensor

from sppo.comm.collectives import CollectiveWork, Team
from sppo.comm.mesh import COPIES, Axis, RankGroups, coordinate_of, groups_along
from sppo.comm.messages import Channel, Connection, ReceiveWork, Transport
from sppo.plan.plan import Plan

_POLL_SECONDS = 0.2


class PeerFailed(RuntimeError):
    """The rank whose message is awaited has failed."""


class _Mailbox:
    """What one rank has sent to another on a channel, and the receives that wait for it."""

    def __init__(self, broken: threading.Event) -> None:
        self.sent: queue.SimpleQueue[Tensor] = queue.SimpleQueue()
        self.posted: deque[_MailboxWork] = deque()
        self.broken = broken

    def next(self) -> Tensor:
        """The next message. Raises PeerFailed if a rank of this process has failed."""
        while True:
            try:
                return self.sent.get(timeout=_POLL_SECONDS)
            except queue.Empty:
                if self.broken.is_set():
                    raise PeerFailed("another rank of this process has failed") from None


class _MailboxWork:
    """A receive into `into`. Waiting fills the receives that were posted before it first."""

    def __init__(self, mailbox: _Mailbox, into: Tensor) -> None:
        self.mailbox = mailbox
        self.into = into
        self.filled = False

    def wait(self) -> None:
        while not self.filled:
            first = self.mailbox.posted.popleft()
            first.into.copy_(self.mailbox.next())
            first.filled = True


class InProcessNetwork:
    """Mailboxes between `ranks` stages of one process. `broken` is set when one of them fails."""

    def __init__(self, ranks: int) -> None:
        self.broken = threading.Event()
        self.mailboxes = {
            (source, target, channel): _Mailbox(self.broken)
            for (source, target), channel in product(permutations(range(ranks), 2), Channel)
        }


class InProcessTransport(Transport):
    """One rank's end of a network. Once connected, it sends through its connections only."""

    def __init__(self, network: InProcessNetwork, rank: int) -> None:
        super().__init__()
        self.network = network
        self._rank = rank
        self._connected: set[Connection] | None = None

    def connect(self, connections: Sequence[Connection], device: torch.device) -> None:
        self._connected = {*connections, *(self._connected or ())}

    def send(self, tensor: Tensor, peer: int, channel: Channel = Channel.PIPELINE) -> None:
        connection = Connection(self._rank, peer, channel)
        assert self._connected is None or connection in self._connected, (
            f"not connected: {connection}"
        )
        self.traffic.count(tensor)
        self.network.mailboxes[connection].sent.put(tensor.detach().clone())

    def receive(self, into: Tensor, peer: int, channel: Channel = Channel.PIPELINE) -> ReceiveWork:
        work = _MailboxWork(self.network.mailboxes[peer, self._rank, channel], into)
        work.mailbox.posted.append(work)
        return work

    def flush(self, *channels: Channel) -> None:
        """A mailbox holds a copy, so every send is done."""

    def abort(self) -> None:
        self.network.broken.set()


class InProcessTeam(Team):
    """One thread of a team. `slots` holds one tensor of every rank during a collective.

    A collective happens when its result is waited for.
    """

    def __init__(
        self, size: int, index: int, barrier: threading.Barrier, slots: list[Tensor]
    ) -> None:
        super().__init__(size, index)
        self._barrier = barrier
        self._slots = slots

    def _exchange(
        self, own: Tensor, combine: Callable[[list[Tensor]], Tensor], into: Tensor | None
    ) -> Tensor:
        self._slots[self.index] = own.detach()
        self._barrier.wait()
        result = combine(self._slots)
        self._barrier.wait()
        return result if into is None else into.copy_(result)

    def all_gather(self, rows: Tensor, into: Tensor | None = None) -> CollectiveWork:
        self.traffic.count(rows, copies=self.size)
        return CollectiveWork(lambda: self._exchange(rows, torch.cat, into))

    def reduce_scatter(self, rows: Tensor, into: Tensor | None = None) -> CollectiveWork:
        self.traffic.count(rows)

        def combine(slots: list[Tensor]) -> Tensor:
            return _sum([slot.chunk(self.size)[self.index] for slot in slots])

        return CollectiveWork(lambda: self._exchange(rows, combine, into))

    def all_to_all(self, rows: Tensor) -> CollectiveWork:
        self.traffic.count(rows)

        def combine(slots: list[Tensor]) -> Tensor:
            return torch.cat([slot.chunk(self.size)[self.index] for slot in slots])

        return CollectiveWork(lambda: self._exchange(rows, combine, None))

    def all_reduce(self, tensor: Tensor) -> None:
        self.traffic.count(tensor)
        self._exchange(tensor, _sum, tensor)

    def abort(self) -> None:
        self._barrier.abort()


def _sum(tensors: list[Tensor]) -> Tensor:
    return torch.stack(tensors).sum(0)


def in_process_teams(size: int) -> list[Team]:
    """A team of `size` threads, one entry for each."""
    if size == 1:
        return [Team()]
    barrier, slots = threading.Barrier(size), [torch.empty(0)] * size
    return [InProcessTeam(size, index, barrier, slots) for index in range(size)]


def _teams_along(plan: Plan, *axes: Axis) -> dict[int, Team]:
    """By rank: its team along these axes of the mesh."""
    teams: dict[int, Team] = {}
    for ranks in groups_along(plan, *axes):
        teams.update(zip(ranks, in_process_teams(len(ranks)), strict=True))
    return teams


def connect_threads(plan: Plan) -> list[RankGroups]:
    """Connect all ranks of a plan inside this process, each a thread; by rank. CPU only.

    Autograd has one thread a CUDA device, which a collective inside a backward would block.
    """
    transports: dict[int, Transport] = {}
    for pipeline in groups_along(plan, "stage"):
        network = InProcessNetwork(len(pipeline))
        for stage, rank in enumerate(pipeline):
            transports[rank] = InProcessTransport(network, stage)
    shards, ulysses = _teams_along(plan, "shard"), _teams_along(plan, "ulysses")
    context, copies = _teams_along(plan, "context"), _teams_along(plan, *COPIES)
    return [
        RankGroups(
            coordinate=coordinate_of(plan, rank),
            transport=transports[rank],
            shards=shards[rank],
            ulysses=ulysses[rank],
            context=context[rank],
            copies=copies[rank],
            everyone=everyone,
        )
        for rank, everyone in enumerate(in_process_teams(plan.ranks))
    ]


_Result = TypeVar("_Result")


def run_together(groups: Sequence[RankGroups], task: Callable[[int], _Result]) -> list[_Result]:
    """`task(rank)` of all ranks of one process, each in a thread; results by rank.

    Raises the error of the rank that failed, not the errors of ranks that waited for it.
    """

    def run(rank: int) -> _Result:
        with ExitStack() as undo:
            undo.callback(groups[rank].abort)
            result = task(rank)
            undo.pop_all()
        return result

    with ThreadPoolExecutor(len(groups)) as pool:
        futures = [pool.submit(run, rank) for rank in range(len(groups))]
        errors = [future.exception() for future in as_completed(futures)]
    causes = [error for error in errors if error is not None]
    if causes:
        raise min(causes, key=lambda error: isinstance(error, (BrokenBarrierError, PeerFailed)))
    return [future.result() for future in futures]
