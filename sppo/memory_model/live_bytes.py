"""What lies on a stage's device at each of its computes, for all decisions at once. No torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from operator import mul
from typing import NamedTuple

from sppo.schedule.order import Compute, residency


class ChunkEnds(NamedTuple):
    """The layers of a model chunk on a rank, and whether it has the first layer or the head."""

    layers: range
    first: bool
    head: bool


class Fullest(NamedTuple):
    """Bytes at one compute: kept activations, messages, and what the compute takes beside."""

    kept: int
    messages: int
    temporary: int


@dataclass(frozen=True, kw_only=True)
class LiveBytes:
    """The computes of a stage, and the messages that wait meanwhile.

    Lists that are given are by place, virtual stage x subsequences + subsequence; those that are
    found are by compute.
    """

    computes: Sequence[Compute]
    subsequences: int
    messages: Sequence[int]
    overlapped: bool

    @cached_property
    def _places(self) -> list[int]:
        return [one.virtual * self.subsequences + one.subsequence for one in self.computes]

    @cached_property
    def _changes(self) -> tuple[list[int], list[int], list[int], list[int]]:
        """Places and signs of what is kept or leaves, and how many changes precede each compute."""
        places: list[int] = []
        kept: list[int] = []
        away: list[int] = []
        ends: list[int] = []
        for changes in residency(self.computes, overlapped=self.overlapped):
            for change in changes:
                places.append(change.virtual * self.subsequences + change.subsequence)
                kept.append(change.kept)
                away.append(-change.away)
            ends.append(len(places))
        return places, kept, away, ends

    def kept(self, kept: Sequence[int], moved: Sequence[int]) -> list[int]:
        """Kept activations at every compute; kept, moved: bytes by place.

        Everything made before and not yet used is kept, less what has left: see `residency`.
        """
        places, kept_signs, away_signs, ends = self._changes
        changes = map(mul, kept_signs, [kept[place] for place in places])
        left = map(mul, away_signs, [moved[place] for place in places])
        totals = list(accumulate(map(int.__add__, changes, left), initial=0))
        return [totals[end] for end in ends]

    def beside(self, forwards: Sequence[int], backwards: Sequence[int]) -> list[int]:
        """What every compute takes, given what one takes by place."""
        return [
            forwards[place] if one.forward else backwards[place]
            for one, place in zip(self.computes, self._places, strict=True)
        ]

    def fullest(self, kept: Sequence[int], beside: Sequence[int]) -> Fullest:
        """The compute with the most bytes."""
        totals = list(map(sum, zip(kept, self.messages, beside, strict=True)))
        where = totals.index(max(totals))
        return Fullest(kept[where], self.messages[where], beside[where])

    @cached_property
    def turn(self) -> int:
        """The last forward of the first sequence: nothing is used up yet."""
        return max(
            number for number, one in enumerate(self.computes) if one.forward and not one.sequence
        )


def message_bytes(
    computes: Sequence[Compute],
    parts: Sequence[ChunkEnds],
    sizes: Sequence[Sequence[int]],
    ahead: int,
) -> list[int]:
    """Messages on a rank during each of its computes: those that wait, and the last two sent.

    sizes: bytes of the hidden states of a subsequence, by [part][subsequence]. Receives are posted
    `ahead` computes early. What a rank hands to itself (a slice's) waits from where it is made.
    """
    count = len(computes)
    waits = [0] * (count + 1)
    sent = [0, 0]
    leaving = []
    makers = _makers(computes, parts)
    for number, one in enumerate(computes):
        part, size = parts[one.virtual], sizes[one.virtual][one.subsequence]
        leaving.append(sent[-2] + sent[-1])
        if not (part.first if one.forward else part.head):
            waits[max(0, min(number - ahead, makers.get(number, number)))] += size
            waits[number] -= size
        if not (part.head if one.forward else part.first):
            sent.append(size)
    return [size + more for size, more in zip(accumulate(waits[:count]), leaving, strict=True)]


def _makers(computes: Sequence[Compute], parts: Sequence[ChunkEnds]) -> dict[int, int]:
    """Which compute of this rank makes (some of) what another one reads, by their numbers."""
    ends = {part.layers.stop: virtual for virtual, part in enumerate(parts) if part.layers}
    begins = {part.layers.start: virtual for virtual, part in enumerate(parts) if part.layers}
    numbers = {one: number for number, one in enumerate(computes)}
    found = {}
    for one, number in numbers.items():
        layers = parts[one.virtual].layers
        other = ends.get(layers.start) if one.forward else begins.get(layers.stop)
        recomputer = None if other is None else numbers.get(one._replace(virtual=other))
        if recomputer is not None:
            found[number] = recomputer
    return found
