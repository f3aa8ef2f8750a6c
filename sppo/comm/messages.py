"""Messages between stages: one small protocol, whose kinds count what they send.

`GroupTransport` speaks through torch's default process group (gloo, NCCL, torch's fake one).
`in_process.py` connects all stages inside one process, each a thread: fast tests at PP 8.

Messages of a pair and channel arrive in the order of their sending. What belongs to a lending has
channels of its own: it overtakes hidden states that wait for their turn.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from enum import IntEnum
from typing import NamedTuple, Protocol

import torch
import torch.distributed as dist
from torch import Tensor


class Channel(IntEnum):
    """Messages of one channel between two ranks keep their order."""

    PIPELINE = 0
    MSP_WEIGHTS = 1
    MSP_SLICES = 2


class Connection(NamedTuple):
    """That one rank of a pipeline sends to another through a channel; in the order of the ranks."""

    source: int
    target: int
    channel: Channel


@dataclass(kw_only=True)
class Traffic:
    """What one rank has sent to its neighbours."""

    messages: int = 0
    bytes: int = 0

    def count(self, tensor: Tensor) -> None:
        self.messages += 1
        self.bytes += tensor.numel() * tensor.element_size()


class ReceiveWork(Protocol):
    """A posted receive."""

    def wait(self) -> None:
        """Returns once the buffer is filled."""
        ...


class Transport(Protocol):
    traffic: Traffic

    def connect(self, connections: Sequence[Connection], device: torch.device) -> None:
        """Before the first message: every rank of the pipeline calls it with the same meetings."""
        ...

    def send(self, tensor: Tensor, peer: int, channel: Channel = Channel.PIPELINE) -> None:
        """Hand over a contiguous tensor; the transport keeps it until it has left."""
        ...

    def receive(self, into: Tensor, peer: int, channel: Channel = Channel.PIPELINE) -> ReceiveWork:
        """Post a receive into a contiguous tensor."""
        ...

    def flush(self, *channels: Channel) -> None:
        """Wait until everything sent (through these channels) has left."""
        ...

    def abandon(self) -> None:
        """After an error: ranks that wait for this one fail too."""
        ...


class _GroupWork:
    def __init__(self, work: dist.Work) -> None:
        self._work = work

    def wait(self) -> None:
        self._work.wait()


class GroupTransport:
    """Point-to-point through process groups; at most two pipeline messages are on their way out.

    gloo tells channels apart by tag. NCCL knows no tags and runs all messages of a pair on one
    stream, in order: a receive that is posted ahead would hold up the send behind it, on both
    sides. So there each direction of each channel has a group of its own. (A default group made
    with `device_id` would put all pairs on one stream, and interleaved stages would wait for ever.)
    Collective: every rank makes its transport at the same time. `ranks`: those of the pipeline's
    stages in the default group.
    """

    def __init__(self, ranks: Sequence[int], timeout: timedelta | None = None) -> None:
        self._ranks = ranks
        self.traffic = Traffic()
        self._leaving: dict[Channel, deque[tuple[dist.Work, Tensor]]] = {
            channel: deque() for channel in Channel
        }
        self._rank = dist.get_rank()
        self._nccl = dist.get_backend() == "nccl"
        self._connected: set[Connection] = set()
        self._groups = {
            (channel, upward): _nccl_group(timeout) if self._nccl else None
            for channel in Channel
            for upward in (True, False)
        }

    def connect(self, connections: Sequence[Connection], device: torch.device) -> None:
        """NCCL connects a pair at its first message, and both ranks wait inside that call.

        A receive posted ahead would wait for a send that its own rank has not come to. So a token
        goes through every connection first, in one order on all ranks.
        """
        if self._nccl:
            self.exchange_tokens(connections, device)
            torch.cuda.synchronize(device)

    def exchange_tokens(self, connections: Sequence[Connection], device: torch.device) -> None:
        """One element through every connection that has had none, uncounted."""
        token = torch.zeros(1, device=device)
        for connection in sorted(set(connections) - self._connected):
            source, target = self._ranks[connection.source], self._ranks[connection.target]
            group = self._groups[connection.channel, source < target]
            if self._rank == source:
                dist.send(token, target, group=group, tag=connection.channel)
            elif self._rank == target:
                dist.recv(token, source, group=group, tag=connection.channel)
        self._connected |= set(connections)

    def send(self, tensor: Tensor, peer: int, channel: Channel = Channel.PIPELINE) -> None:
        leaving = self._leaving[channel]
        while channel is Channel.PIPELINE and len(leaving) >= 2:
            leaving.popleft()[0].wait()
        self.traffic.count(tensor)
        target = self._ranks[peer]
        group = self._groups[channel, self._rank < target]
        work = dist.isend(tensor, target, group=group, tag=channel)
        assert work is not None
        leaving.append((work, tensor))

    def receive(self, into: Tensor, peer: int, channel: Channel = Channel.PIPELINE) -> ReceiveWork:
        source = self._ranks[peer]
        group = self._groups[channel, source < self._rank]
        work = dist.irecv(into, source, group=group, tag=channel)
        assert work is not None
        return _GroupWork(work)

    def flush(self, *channels: Channel) -> None:
        for channel in channels or Channel:
            leaving = self._leaving[channel]
            while leaving:
                leaving.popleft()[0].wait()

    def abandon(self) -> None:
        """The process group tells them."""


def _nccl_group(timeout: timedelta | None) -> dist.ProcessGroup:
    """A group whose messages have streams of high priority, which no copy shares with them."""
    options = dist.ProcessGroupNCCL.Options(is_high_priority_stream=True)
    group: dist.ProcessGroup = dist.new_group(timeout=timeout, pg_options=options)
    return group
