"""Moves messages and collectives between ranks that are threads, as late as NCCL may.

A message is read from the sender's own memory when either side has waited for it, and a collective
when the first member has. So memory that is overwritten before the wait arrives overwritten.
"""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from tests.cuda.fake.courier import unwatched

Connection = tuple[int, int, int]
"""Group, rank that sends, rank that receives."""

Place = tuple[int, tuple[int, ...], int]
"""Group, its members, number of the collective."""


class NetworkFault(RuntimeError):
    """Ranks that do not match: NCCL would hang, or deliver garbage."""


@dataclass(eq=False)
class _Pair:
    sends: list[Tensor] = field(default_factory=list)
    receives: list[Tensor] = field(default_factory=list)
    moved: int = 0


class _Share(NamedTuple):
    operation: str
    source: Tensor
    into: Tensor


@dataclass(eq=False)
class _Meeting:
    shares: dict[int, _Share] = field(default_factory=dict)
    results: dict[int, Tensor] = field(default_factory=dict)


class Network:
    """What all ranks of one process have sent and posted. `broken`: a rank has failed."""

    def __init__(self, patience_seconds: float = 120.0) -> None:
        self._patience_seconds = patience_seconds
        self._condition = threading.Condition()
        self._pairs: defaultdict[Connection, _Pair] = defaultdict(_Pair)
        self._meetings: defaultdict[Place, _Meeting] = defaultdict(_Meeting)
        self._broken = False

    def give_up(self) -> None:
        """A rank has failed: ranks that wait for it fail too."""
        with self._condition:
            self._broken = True
            self._condition.notify_all()

    def _wait_for(self, ready: Callable[[], bool], words: str) -> None:
        done = self._condition.wait_for(lambda: ready() or self._broken, self._patience_seconds)
        if not ready():
            raise NetworkFault(f"{words}: {'another rank failed' if done else 'nobody came'}")

    def message(self, connection: Connection, tensor: Tensor, *, sends: bool) -> Callable[[], None]:
        """A send from, or a receive into, the tensor; the result completes it."""
        with self._condition:
            pair = self._pairs[connection]
            calls = pair.sends if sends else pair.receives
            calls.append(tensor)
            self._condition.notify_all()
            return partial(self._complete, connection, len(calls))

    def _complete(self, connection: Connection, count: int) -> None:
        pair = self._pairs[connection]
        with self._condition, unwatched():
            both = lambda: min(len(pair.sends), len(pair.receives)) >= count  # noqa: E731
            self._wait_for(both, f"message {count} of {connection}")
            while pair.moved < count:
                source, into = pair.sends[pair.moved], pair.receives[pair.moved]
                if source.numel() != into.numel() or source.dtype != into.dtype:
                    raise NetworkFault(f"{connection}: {source.shape} is sent to {into.shape}")
                into.copy_(source.view(into.shape))
                # Its memory may be freed now.
                pair.sends[pair.moved] = pair.receives[pair.moved] = torch.empty(0)
                pair.moved += 1

    def collective(
        self, place: Place, index: int, operation: str, source: Tensor, into: Tensor
    ) -> Callable[[], None]:
        """This member's share; the result waits for all members and writes `into`."""
        with self._condition:
            self._meetings[place].shares[index] = _Share(operation, source, into)
            self._condition.notify_all()
        return partial(self._meet, place, index)

    def _meet(self, place: Place, index: int) -> None:
        members = len(place[1])
        with self._condition, unwatched():
            meeting = self._meetings[place]
            here = lambda: len(meeting.shares) == members or index in meeting.results  # noqa: E731
            self._wait_for(here, f"collective {place}")
            if not meeting.results:
                meeting.results = _results([meeting.shares[each] for each in range(members)])
            meeting.shares[index].into.copy_(meeting.results.pop(index))
            if not meeting.results:
                del self._meetings[place]


def _results(shares: list[_Share]) -> dict[int, Tensor]:
    """By member, what it gets."""
    sources = [share.source for share in shares]
    calls = {(share.operation, share.source.shape, share.source.dtype) for share in shares}
    if len(calls) > 1:
        raise NetworkFault(f"members call different collectives: {sorted(map(str, calls))}")
    match shares[0].operation:
        case "all_gather":
            result = torch.cat(sources)
            return {index: result.view(shares[0].into.shape) for index in range(len(shares))}
        case "all_reduce":
            total = torch.stack(sources).sum(0)
            return dict.fromkeys(range(len(shares)), total)
        case "reduce_scatter":
            pieces = torch.stack(sources).sum(0).chunk(len(shares))
            return dict(enumerate(pieces))
        case "all_to_all":
            sent = [source.chunk(len(shares)) for source in sources]
            return {index: torch.cat([rows[index] for rows in sent]) for index in range(len(sent))}
    raise AssertionError(shares[0].operation)
