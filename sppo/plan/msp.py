"""Multiplexed sequence partitioning (paper sec. 6.2): who computes which slice of a subsequence.

At a pipeline's ends ranks wait. There the owner of a part lends its weights, and the neighbours
compute slices of its subsequences with it. Slices are consecutive tokens, in rank order. No torch.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple


@dataclass(frozen=True, kw_only=True)
class MspSplit:
    """Multiplexed sequence partitioning: some subsequences of one part, each cut into slices.

    The owner of `part` lends its weights; `ranks[j]` computes slice j of every subsequence, whose
    length is `lengths_tokens[n][j]` for `subsequences[n]` (consecutive). The owner is one of them.
    `fills`: at the pipeline's begin (in the backward: its end), else at the turn between the two.
    Helpers keep their slices on the device, but for the units of `recompute_units`.
    """

    part: int
    fills: bool
    subsequences: tuple[int, ...]
    ranks: tuple[int, ...]
    lengths_tokens: tuple[tuple[int, ...], ...]
    recompute_units: tuple[str, ...] = ()


Cut = Callable[[int, int, int], tuple[int, ...] | None]
"""(part, subsequence, ranks) -> lengths of the slices; None where it is too short."""


class Slice(NamedTuple):
    """Tokens [start, start + tokens) of a subsequence, computed by `rank` in one part."""

    rank: int
    start: int
    tokens: int


class Piece(NamedTuple):
    """Hidden states that slice `source` of a part hands to slice `target` of the next one."""

    source: int
    target: int
    start: int
    tokens: int


def table(stages: int, subsequences: int, stage: int) -> tuple[range, range]:
    """(left, right) ids of a stage's subsequences that are computed together: the paper's Table 3.

    Left ones by ranks stage .. PP - 1, which wait for their first input; right ones by ranks
    0 .. stage, which have nothing left to do.
    """
    left = range(min(stages - 1 - stage, subsequences))
    return left, range(max(subsequences - stage, len(left)), subsequences)


def msp_splits(
    stages: int, parts: int, subsequences: int, cut: Cut, *, drains: bool = True
) -> tuple[MspSplit, ...]:
    """All lendings of a pipeline of `parts` parts with layers, in the order of the forward.

    The first PP parts fill the pipeline, the last PP drain it (if `drains`). Nothing is lent of a
    stage with a subsequence that is too short for its ranks.
    """
    found = []
    for fills in (True, False) if drains else (True,):
        for stage in range(stages):
            ids = table(stages, subsequences, stage)[0 if fills else 1]
            ranks = range(stage, stages) if fills else range(stage + 1)
            part = stage if fills else parts - stages + stage
            rows = [cut(part, index, len(ranks)) for index in ids]
            lengths = tuple(row for row in rows if row is not None)
            if lengths and len(lengths) == len(rows):
                found.append(
                    MspSplit(
                        part=part,
                        fills=fills,
                        subsequences=tuple(ids),
                        ranks=tuple(ranks),
                        lengths_tokens=lengths,
                    )
                )
    return tuple(found)


@dataclass(frozen=True, kw_only=True)
class Slicing:
    """Every subsequence of every part as slices; without lendings one each, its owner's."""

    stages: int
    lengths_tokens: tuple[int, ...]
    msp_splits: tuple[MspSplit, ...] = ()

    @cached_property
    def _lent(self) -> dict[tuple[int, int], tuple[Slice, ...]]:
        found = {}
        for msp_split in self.msp_splits:
            for index, lengths in zip(
                msp_split.subsequences, msp_split.lengths_tokens, strict=True
            ):
                assert sum(lengths) == self.lengths_tokens[index]
                starts = itertools.accumulate(lengths[:-1], initial=0)
                row = zip(msp_split.ranks, starts, lengths, strict=True)
                found[msp_split.part, index] = tuple(Slice(*one) for one in row)
        return found

    def is_split(self, part: int, subsequence: int) -> bool:
        return (part, subsequence) in self._lent

    def split_of(self, part: int, subsequence: int) -> MspSplit:
        """The lending of a subsequence that is lent."""
        (found,) = (
            msp_split
            for msp_split in self.msp_splits
            if msp_split.part == part and subsequence in msp_split.subsequences
        )
        return found

    def slices(self, part: int, subsequence: int) -> tuple[Slice, ...]:
        whole = Slice(part % self.stages, 0, self.lengths_tokens[subsequence])
        return self._lent.get((part, subsequence), (whole,))

    def slice_of(self, part: int, subsequence: int, rank: int) -> int | None:
        """Which slice a rank computes, if any."""
        for number, one in enumerate(self.slices(part, subsequence)):
            if one.rank == rank:
                return number
        return None

    def tokens_of(self, part: int, subsequence: int, rank: int) -> int:
        """Tokens that a rank computes."""
        number = self.slice_of(part, subsequence, rank)
        return 0 if number is None else self.slices(part, subsequence)[number].tokens

    def pieces(self, part: int, subsequence: int) -> tuple[Piece, ...]:
        """What goes from `part` to the next one, by the slices of both."""
        key = part, subsequence
        if key not in self._known_pieces:
            self._known_pieces[key] = self._find_pieces(part, subsequence)
        return self._known_pieces[key]

    @cached_property
    def _known_pieces(self) -> dict[tuple[int, int], tuple[Piece, ...]]:
        return {}

    def _find_pieces(self, part: int, subsequence: int) -> tuple[Piece, ...]:
        found = []
        for source, before in enumerate(self.slices(part, subsequence)):
            for target, after in enumerate(self.slices(part + 1, subsequence)):
                start = max(before.start, after.start)
                end = min(before.start + before.tokens, after.start + after.tokens)
                if start < end:
                    found.append(Piece(source, target, start, end - start))
        return tuple(found)

    def helpers(self, msp_split: MspSplit) -> list[tuple[int, int]]:
        """(slice, rank) of every helper of a split: all its ranks but the owner."""
        owner = msp_split.part % self.stages
        return [(number, rank) for number, rank in enumerate(msp_split.ranks) if rank != owner]

    def splits_helped_by(self, rank: int) -> tuple[MspSplit, ...]:
        """The splits in which a rank helps another one, in the order of the forward."""
        return tuple(
            msp_split
            for msp_split in self.msp_splits
            if rank in msp_split.ranks and rank != msp_split.part % self.stages
        )

    def keeps_weights(self, rank: int, msp_split: MspSplit) -> bool:
        """Whether a helper still has the split's weights when the backward begins."""
        return self.splits_helped_by(rank)[-1] == msp_split


def with_slices(
    order: Sequence[tuple[int, int]],
    slicing: Slicing,
    rank: int,
    parts_of_rank: Sequence[int],
    head: int | None = None,
) -> list[tuple[int, int]]:
    """A rank's forwards, (place in `parts_of_rank`, subsequence), with its slices at the ends.

    `order` are its own forwards without lending. First come the slices that fill the pipeline, by
    part, then its own work, then the slices that drain it, but before the loss of the first of
    them where the head is a part of its own (place `head`).
    """
    ends: dict[bool, list[tuple[int, int]]] = {True: [], False: []}
    for msp_split in slicing.msp_splits:
        if rank in msp_split.ranks:
            place = parts_of_rank.index(msp_split.part)
            ends[msp_split.fills] += [(place, index) for index in msp_split.subsequences]
    lent = {*ends[True], *ends[False]}
    own = [one for one in order if one not in lent]
    drained = {index for _, index in ends[False]}
    late = [n for n, (place, index) in enumerate(own) if place == head and index in drained]
    split = late[0] if late else len(own)
    return [*ends[True], *own[:split], *ends[False], *own[split:]]
