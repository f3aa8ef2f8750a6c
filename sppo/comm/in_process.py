"""All ranks as threads of one process: their messages, collectives and the threads."""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from itertools import product
from threading import BrokenBarrierError
from typing import TypeVar

import torch
from torch import Tensor

from sppo.comm.collectives import Alone, CollectiveWork, Team
from sppo.comm.mesh import RankGroups, mesh_coordinates
from sppo.comm.messages import Channel, Connection, ReceiveWork, Traffic
from sppo.plan.plan import Plan


class PeerFailed(RuntimeError):
    """The rank that a message is awaited of has failed."""


class InProcessNetwork:
    """Mailboxes between `ranks` stages of one process. `broken` is set when one of them fails."""

    def __init__(self, ranks: int) -> None:
        self.broken = threading.Event()
        self.boxes: dict[tuple[int, int, Channel], _Box] = {
            (source, target, channel): _Box(self.broken)
            for source in range(ranks)
            for target in range(ranks)
            for channel in Channel
            if source != target
        }

    def transport(self, rank: int) -> InProcessTransport:
        """Its end of the network."""
        return InProcessTransport(self, rank)


class InProcessTransport:
    """One rank's end of an InProcessNetwork. Once connected it sends as it was connected only."""

    def __init__(self, network: InProcessNetwork, rank: int) -> None:
        self.traffic = Traffic()
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
        self.network.boxes[self._rank, peer, channel].sent.put(tensor.detach().clone())

    def receive(self, into: Tensor, peer: int, channel: Channel = Channel.PIPELINE) -> ReceiveWork:
        work = _BoxWork(self.network.boxes[peer, self._rank, channel], into)
        work.box.posted.append(work)
        return work

    def flush(self, *channels: Channel) -> None:
        """A mailbox never fills up."""

    def abandon(self) -> None:
        self.network.broken.set()


class _Box:
    """What one rank has sent another, and the receives that wait for it."""

    def __init__(self, broken: threading.Event) -> None:
        self.sent: queue.SimpleQueue[Tensor] = queue.SimpleQueue()
        self.posted: deque[_BoxWork] = deque()
        self.broken = broken

    def next(self) -> Tensor:
        """The next message. Raises PeerFailed if another rank has failed."""
        while True:
            try:
                return self.sent.get(timeout=_PATIENCE_SECONDS)
            except queue.Empty:
                if self.broken.is_set():
                    raise PeerFailed("another rank of this process has failed") from None


_PATIENCE_SECONDS = 0.2


class _BoxWork:
    def __init__(self, box: _Box, into: Tensor) -> None:
        self.box = box
        self.into = into
        self.filled = False

    def wait(self) -> None:
        while not self.filled:
            first = self.box.posted.popleft()
            first.into.copy_(self.box.next())
            first.filled = True


@dataclass(frozen=True)
class _Table:
    """Where the members of a team of threads lay what they have, and meet."""

    barrier: threading.Barrier
    places: list[Tensor]


@dataclass(frozen=True)
class _Later:
    """A collective of threads happens when it is waited for."""

    do: Callable[[], Tensor]

    def wait(self) -> Tensor:
        return self.do()


@dataclass(kw_only=True)
class InProcessTeam:
    """One thread of a team."""

    table: _Table
    size: int
    index: int
    traffic: Traffic = field(default_factory=Traffic)

    def _exchange(
        self,
        mine: Tensor,
        take: Callable[[Sequence[Tensor]], Tensor],
        into: Tensor | None = None,
    ) -> Tensor:
        self.table.places[self.index] = mine.detach()
        self.table.barrier.wait()
        result = take(self.table.places)
        self.table.barrier.wait()
        return result if into is None else into.copy_(result)

    def all_gather(self, rows: Tensor, into: Tensor | None = None) -> CollectiveWork:
        self.traffic.messages += 1
        self.traffic.bytes += self.size * rows.numel() * rows.element_size()
        return _Later(lambda: self._exchange(rows, _joined, into))

    def reduce_scatter(self, rows: Tensor, into: Tensor | None = None) -> CollectiveWork:
        self.traffic.count(rows)
        share = rows.shape[0] // self.size
        mine = slice(self.index * share, (self.index + 1) * share)

        def take(places: Sequence[Tensor]) -> Tensor:
            return _total([place[mine] for place in places])

        return _Later(lambda: self._exchange(rows, take, into))

    def all_reduce(self, tensor: Tensor) -> None:
        self.traffic.count(tensor)
        total = self._exchange(tensor, _total)
        tensor.copy_(total)

    def abandon(self) -> None:
        self.table.barrier.abort()


def _joined(places: Sequence[Tensor]) -> Tensor:
    return torch.cat(list(places))


def _total(places: Sequence[Tensor]) -> Tensor:
    return torch.stack(list(places)).sum(0)


def in_process_teams(size: int) -> list[Team]:
    """A team of `size` threads, one entry for each."""
    if size == 1:
        return [Alone()]
    table = _Table(threading.Barrier(size), [torch.empty(0)] * size)
    return [InProcessTeam(table=table, size=size, index=index) for index in range(size)]


_Result = TypeVar("_Result")


def connect_threads(plan: Plan) -> list[RankGroups]:
    """Connect all ranks of a plan inside this process, each a thread; by rank. CPU only.

    Autograd has one thread a CUDA device, which a collective inside a backward would block.
    """
    shards, replicas = plan.sequence_parallel, plan.data_parallel
    networks = {
        (replica, shard): InProcessNetwork(plan.pipeline_parallel)
        for replica, shard in product(range(replicas), range(shards))
    }
    coordinates = mesh_coordinates(plan)
    everyone = in_process_teams(plan.ranks)
    of_stage = {
        (one.replica, one.stage): in_process_teams(shards) for one in coordinates if not one.shard
    }
    alike = {
        (one.stage, one.shard): in_process_teams(replicas) for one in coordinates if not one.replica
    }
    return [
        RankGroups(
            coordinate=one,
            transport=networks[one.replica, one.shard].transport(one.stage),
            shards=of_stage[one.replica, one.stage][one.shard],
            replicas=alike[one.stage, one.shard][one.replica],
            everyone=everyone[rank],
        )
        for rank, one in enumerate(coordinates)
    ]


def run_together(
    connections: Sequence[RankGroups], task: Callable[[int], _Result]
) -> list[_Result]:
    """`task(rank)` of all ranks of one process, each in a thread; by rank.

    Raises what a failing rank raised, not what others did because it had left them.
    """

    def run(rank: int) -> _Result:
        whole = False
        try:
            result = task(rank)
            whole = True
        finally:
            if not whole:
                connections[rank].abandon()
        return result

    with ThreadPoolExecutor(len(connections)) as pool:
        running = [pool.submit(run, rank) for rank in range(len(connections))]
        errors = [one.exception() for one in as_completed(running)]
    causes = [error for error in errors if error is not None]
    if causes:
        raise min(causes, key=lambda error: isinstance(error, (BrokenBarrierError, PeerFailed)))
    return [one.result() for one in running]
