"""Messages between stages: one small interface, whose implementations count the bytes they send.

`GroupTransport` uses torch's default process group (gloo, NCCL, torch's fake one).
`in_process.py` connects all stages inside one process, each a thread: fast tests at PP 8.

Messages of a pair and channel arrive in the order of sending. Messages of an MSP split have
channels of their own. They overtake hidden states that wait for their turn.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import defaultdict, deque
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from enum import IntEnum
from typing import NamedTuple, Protocol

import torch
import torch.distributed as dist
from torch import Tensor

from sppo.comm.nccl import is_nccl, message_group


class Channel(IntEnum):
    """Messages of one channel between two ranks keep their order."""

    PIPELINE = 0
    MSP_WEIGHTS = 1
    MSP_SLICES = 2


class Connection(NamedTuple):
    """Rank `source` of a pipeline sends to rank `target` through a channel."""

    source: int
    target: int
    channel: Channel


@dataclass(kw_only=True)
class Traffic:
    """Messages or collectives of one rank, and their bytes."""

    messages: int = 0
    bytes: int = 0

    def count(self, tensor: Tensor, copies: int = 1) -> None:
        """One message of `copies` times the bytes of `tensor`."""
        self.messages += 1
        self.bytes += copies * tensor.numel() * tensor.element_size()


class ReceiveWork(Protocol):
    """A posted receive."""

    def wait(self) -> object:
        """Return once the buffer is filled. Called once."""


class Transport(ABC):
    """The messages of one rank with the ranks of its pipeline; peers are numbers of stages."""

    def __init__(self) -> None:
        self.traffic = Traffic()

    @abstractmethod
    def connect(self, connections: Sequence[Connection], device: torch.device) -> None:
        """Before the first message. All ranks of the pipeline pass the same connections."""

    @abstractmethod
    def send(self, tensor: Tensor, peer: int, channel: Channel = Channel.PIPELINE) -> None:
        """Send a contiguous tensor; the transport keeps the tensor until the send is done."""

    @abstractmethod
    def receive(self, into: Tensor, peer: int, channel: Channel = Channel.PIPELINE) -> ReceiveWork:
        """Post a receive into a contiguous tensor."""

    @abstractmethod
    def flush(self, *channels: Channel) -> None:
        """Wait until all sends are done: those of these channels, or of all."""

    @abstractmethod
    def abort(self) -> None:
        """After an error: ranks that wait for this one fail too."""


class GroupTransport(Transport):
    """Point-to-point through process groups; at most two pipeline sends are in flight.

    gloo tells channels apart by tag. NCCL has no tags and runs all messages of a pair on one
    stream, in order. A receive that is posted ahead would hold up the send behind it, on both
    sides. So each direction of each channel has an NCCL group of its own. The receives of a
    connection run one after another on its stream: no more than one of them waits on the GPU. All
    are posted early all the same, because a sender has at most two messages in flight. (A default
    group made with `device_id` would put all pairs on one stream, and interleaved stages would
    deadlock.) Collective: all ranks make their transports at the same time. `ranks`: those of the
    pipeline's stages in the default group.
    """

    def __init__(self, ranks: Sequence[int], timeout: timedelta | None = None) -> None:
        super().__init__()
        self._ranks = ranks
        self._in_flight: dict[Channel, deque[tuple[dist.Work, Tensor]]] = defaultdict(deque)
        self._rank = dist.get_rank()
        self._nccl = is_nccl()
        self._connected: set[Connection] = set()
        self._groups = {
            (channel, upward): message_group(timeout) if self._nccl else None
            for channel in Channel
            for upward in (True, False)
        }

    def connect(self, connections: Sequence[Connection], device: torch.device) -> None:
        """NCCL connects a pair at its first message, and both ranks wait inside that call.

        A receive posted ahead would wait for a send that its own rank has not reached. So a token
        goes through every connection first, in one order on all ranks.
        """
        if self._nccl:
            self.exchange_tokens(connections, device)
            torch.cuda.synchronize(device)

    def exchange_tokens(self, connections: Sequence[Connection], device: torch.device) -> None:
        """Send one element through every connection that has had none; not counted."""
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
        in_flight = self._in_flight[channel]
        while channel is Channel.PIPELINE and len(in_flight) >= 2:
            in_flight.popleft()[0].wait()
        self.traffic.count(tensor)
        target = self._ranks[peer]
        group = self._groups[channel, self._rank < target]
        work = dist.isend(tensor, target, group=group, tag=channel)
        assert work is not None
        in_flight.append((work, tensor))

    def receive(self, into: Tensor, peer: int, channel: Channel = Channel.PIPELINE) -> ReceiveWork:
        source = self._ranks[peer]
        group = self._groups[channel, source < self._rank]
        work = dist.irecv(into, source, group=group, tag=channel)
        assert work is not None
        return work

    def flush(self, *channels: Channel) -> None:
        for channel in channels or Channel:
            while self._in_flight[channel]:
                self._in_flight[channel].popleft()[0].wait()

    def abort(self) -> None:
        """The process group tells the other ranks."""
