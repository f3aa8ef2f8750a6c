"""Bytes on a stage's device at each of its computes, for all decisions at once. No torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from operator import add, mul
from typing import NamedTuple

from sppo.plan.parts import PartShape
from sppo.schedule.order import Compute, residency


class SubsequenceBytes(NamedTuple):
    """Bytes of a subsequence in a model chunk; the last two are temporaries of its computes."""

    saved: int
    offloaded: int
    host: int
    forward: int
    backward: int


class ComputePeak(NamedTuple):
    """Bytes at one compute: saved tensors, messages and temporaries."""

    saved: int
    messages: int
    temporary: int


@dataclass(frozen=True, kw_only=True)
class LiveBytes:
    """The computes of a stage, and the bytes of messages at each.

    Arguments of the methods are by place: virtual stage x subsequences + subsequence. Results are
    by compute.
    """

    computes: Sequence[Compute]
    subsequences: int
    messages: Sequence[int]
    overlapped: bool

    def _place(self, virtual: int, subsequence: int) -> int:
        return virtual * self.subsequences + subsequence

    @cached_property
    def _places(self) -> list[int]:
        return [self._place(compute.virtual, compute.subsequence) for compute in self.computes]

    @cached_property
    def _changes(self) -> tuple[list[int], list[int], list[int], list[int]]:
        """Places and signs of changes on the device, and how many precede each compute's peak."""
        rows = list(residency(self.computes, overlapped=self.overlapped))
        changes = [change for row in rows for change in row]
        return (
            [self._place(change.virtual, change.subsequence) for change in changes],
            [change.kept for change in changes],
            [-change.away for change in changes],
            list(accumulate(map(len, rows))),
        )

    def saved(self, saved: Sequence[int], offloaded: Sequence[int]) -> list[int]:
        """Saved tensors on the device at every compute.

        These are all that were saved and not yet used, less those in the host tier: see
        `residency`.
        """
        places, saved_signs, offloaded_signs, ends = self._changes
        changes = map(mul, saved_signs, [saved[place] for place in places])
        copies = map(mul, offloaded_signs, [offloaded[place] for place in places])
        totals = list(accumulate(map(add, changes, copies), initial=0))
        return [totals[end] for end in ends]

    def temporary(self, forwards: Sequence[int], backwards: Sequence[int]) -> list[int]:
        """Temporaries of every compute."""
        return [
            forwards[place] if compute.forward else backwards[place]
            for compute, place in zip(self.computes, self._places, strict=True)
        ]

    def peak(self, saved: Sequence[int], temporary: Sequence[int]) -> ComputePeak:
        """The compute with the most bytes."""
        totals = list(map(add, map(add, saved, self.messages), temporary))
        largest = totals.index(max(totals))
        return ComputePeak(saved[largest], self.messages[largest], temporary[largest])

    @cached_property
    def turn(self) -> int:
        """The last forward of the first sequence: the backward has freed nothing yet."""
        return max(
            number
            for number, compute in enumerate(self.computes)
            if compute.forward and not compute.sequence
        )


def message_bytes(
    computes: Sequence[Compute],
    parts: Sequence[PartShape],
    sizes: Sequence[Sequence[int]],
    ahead: int,
) -> list[int]:
    """Messages on a rank during each of its computes: those received, and the last two sent.

    sizes: bytes of the hidden states of a subsequence, by [chunk][subsequence]. Receives are posted
    `ahead` computes early. Hidden states between two slices of the same rank wait from the compute
    that makes them.
    """
    count = len(computes)
    waits = [0] * (count + 1)
    sent = [0, 0]
    leaving = []
    makers = _makers(computes, parts)
    for number, compute in enumerate(computes):
        part, size = parts[compute.virtual], sizes[compute.virtual][compute.subsequence]
        leaving.append(sent[-2] + sent[-1])
        if not (part.first if compute.forward else part.head):
            waits[max(0, min(number - ahead, makers.get(number, number)))] += size
            waits[number] -= size
        if not (part.head if compute.forward else part.first):
            sent.append(size)
    return list(map(add, accumulate(waits[:count]), leaving))


def _makers(computes: Sequence[Compute], parts: Sequence[PartShape]) -> dict[int, int]:
    """Compute -> the compute of this rank that makes (some of) its input, by their numbers."""
    ends = {part.layers.stop: virtual for virtual, part in enumerate(parts) if part.layers}
    begins = {part.layers.start: virtual for virtual, part in enumerate(parts) if part.layers}
    numbers = {compute: number for number, compute in enumerate(computes)}
    makers = {}
    for compute, number in numbers.items():
        layers = parts[compute.virtual].layers
        neighbour = ends.get(layers.start) if compute.forward else begins.get(layers.stop)
        if neighbour is not None:
            maker = numbers.get(compute._replace(virtual=neighbour))
            if maker is not None:
                makers[number] = maker
    return makers
