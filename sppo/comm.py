"""Messages between stages: one small protocol, two kinds, both counting what they send.

`GroupTransport` speaks through torch's default process group (gloo, NCCL, torch's fake one).
`InProcessNetwork` connects all stages inside one process, stepped in turn: fast tests at PP 8.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Protocol

import torch.distributed as dist
from torch import Tensor


@dataclass(kw_only=True)
class Traffic:
    """What one rank has sent to its neighbours."""

    messages: int = 0
    bytes: int = 0

    def count(self, tensor: Tensor) -> None:
        self.messages += 1
        self.bytes += tensor.numel() * tensor.element_size()


class Receipt(Protocol):
    """A posted receive."""

    def ready(self) -> bool:
        """True once the buffer is filled. May block; False asks to be stepped again later."""
        ...


class Transport(Protocol):
    traffic: Traffic

    def send(self, tensor: Tensor, peer: int) -> None:
        """Hand over a contiguous tensor; the transport keeps it until it has left."""
        ...

    def receive(self, into: Tensor, peer: int) -> Receipt:
        """Post a receive into a contiguous tensor."""
        ...

    def flush(self) -> None:
        """Wait until everything sent has left."""
        ...


class _GroupReceipt:
    def __init__(self, work: dist.Work) -> None:
        self._work = work

    def ready(self) -> bool:
        self._work.wait()
        return True


class GroupTransport:
    """Point-to-point through process groups; at most two sends are in flight.

    NCCL runs all messages of a pair on one stream, in order: a receive that is posted ahead would
    hold up the send behind it, on both sides. So there each direction has a group of its own.
    Collective: every rank makes its transport at the same time.
    """

    def __init__(self) -> None:
        self.traffic = Traffic()
        self._leaving: deque[tuple[dist.Work, Tensor]] = deque()
        self._rank = dist.get_rank()
        one_stream = dist.get_backend() == "nccl"
        self._upward = dist.new_group() if one_stream else None
        self._downward = dist.new_group() if one_stream else None

    def _group(self, source: int, target: int) -> dist.ProcessGroup | None:
        return self._upward if source < target else self._downward

    def send(self, tensor: Tensor, peer: int) -> None:
        while len(self._leaving) >= 2:
            self._leaving.popleft()[0].wait()
        self.traffic.count(tensor)
        work = dist.isend(tensor, peer, group=self._group(self._rank, peer))
        assert work is not None
        self._leaving.append((work, tensor))

    def receive(self, into: Tensor, peer: int) -> Receipt:
        work = dist.irecv(into, peer, group=self._group(peer, self._rank))
        assert work is not None
        return _GroupReceipt(work)

    def flush(self) -> None:
        while self._leaving:
            self._leaving.popleft()[0].wait()


class InProcessNetwork:
    """Mailboxes between `ranks` stages of one process."""

    def __init__(self, ranks: int) -> None:
        self._boxes: dict[tuple[int, int], deque[Tensor]] = {
            (source, target): deque()
            for source in range(ranks)
            for target in range(ranks)
            if source != target
        }

    def transport(self, rank: int) -> InProcessTransport:
        return InProcessTransport(self._boxes, rank)


class InProcessTransport:
    """One rank's end of an InProcessNetwork."""

    def __init__(self, boxes: dict[tuple[int, int], deque[Tensor]], rank: int) -> None:
        self.traffic = Traffic()
        self._boxes = boxes
        self._rank = rank

    def send(self, tensor: Tensor, peer: int) -> None:
        self.traffic.count(tensor)
        self._boxes[(self._rank, peer)].append(tensor.detach().clone())

    def receive(self, into: Tensor, peer: int) -> Receipt:
        return _BoxReceipt(self._boxes[(peer, self._rank)], into)

    def flush(self) -> None:
        """A mailbox never fills up."""


class _BoxReceipt:
    """Receives of one pair are waited for in the order of their posting, as the engine does."""

    def __init__(self, box: deque[Tensor], into: Tensor) -> None:
        self._box = box
        self._into = into

    def ready(self) -> bool:
        if not self._box:
            return False
        self._into.copy_(self._box.popleft())
        return True
