"""Multiplexed sequence partitioning (paper sec. 6.2): who computes which slice of a subsequence.

At a pipeline's ends ranks wait. There the owner of a model chunk sends its weights to helpers,
which compute slices of its subsequences. Slices are consecutive tokens, in rank order. No torch.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple


@dataclass(frozen=True, kw_only=True)
class MspSplit:
    """An MSP split: consecutive subsequences of one model chunk, each cut into slices.

    `ranks[j]` computes slice j of every subsequence: `lengths_tokens[n][j]` tokens of
    `subsequences[n]`. One rank is the owner of `part`, the others are helpers. `fills`: at the
    pipeline's begin (in the backward: its end), else at the turn between the two. Helpers save
    their tensors on the device, but for those of `recompute_units`.
    """

    part: int
    fills: bool
    subsequences: tuple[int, ...]
    ranks: tuple[int, ...]
    lengths_tokens: tuple[tuple[int, ...], ...]
    recompute_units: tuple[str, ...] = ()


Cut = Callable[[int, int, int], tuple[int, ...] | None]
"""(chunk, subsequence, ranks) -> lengths of the slices; None where it is too short."""


class Slice(NamedTuple):
    """Tokens [start, start + tokens) of a subsequence, computed by `rank` in one chunk."""

    rank: int
    start: int
    tokens: int


class Piece(NamedTuple):
    """Hidden states that slice `source` of a chunk sends to slice `target` of the next chunk."""

    source: int
    target: int
    start: int
    tokens: int


def paper_table_3(stages: int, subsequences: int, stage: int) -> tuple[range, range]:
    """(left, right) ids of a stage's subsequences that several ranks compute: the paper's Table 3.

    Left ones: by ranks stage .. PP - 1, which wait for their first input. Right ones: by ranks
    0 .. stage, which have finished their own.
    """
    left = range(min(stages - 1 - stage, subsequences))
    return left, range(max(subsequences - stage, len(left)), subsequences)


def msp_splits(
    stages: int, parts: int, subsequences: int, cut: Cut, *, drains: bool = True
) -> tuple[MspSplit, ...]:
    """All MSP splits of a pipeline of `parts` chunks with layers, in the order of the forward.

    The first PP chunks fill the pipeline, the last PP drain it (if `drains`). A stage with a
    subsequence too short for its ranks has no split.
    """
    splits = []
    for fills in (True, False) if drains else (True,):
        for stage in range(stages):
            ids = paper_table_3(stages, subsequences, stage)[0 if fills else 1]
            ranks = range(stage, stages) if fills else range(stage + 1)
            part = stage if fills else parts - stages + stage
            rows = [cut(part, index, len(ranks)) for index in ids]
            lengths = tuple(row for row in rows if row is not None)
            if lengths and len(lengths) == len(rows):
                splits.append(
                    MspSplit(
                        part=part,
                        fills=fills,
                        subsequences=tuple(ids),
                        ranks=tuple(ranks),
                        lengths_tokens=lengths,
                    )
                )
    return tuple(splits)


@dataclass(frozen=True, kw_only=True)
class Slicing:
    """Every subsequence of every chunk as slices; without a split one each, its owner's.

    `lengths_tokens` are the subsequences of a sequence.
    """

    pipeline_parallel: int
    lengths_tokens: tuple[int, ...]
    msp_splits: tuple[MspSplit, ...] = ()

    @cached_property
    def _splits(self) -> dict[tuple[int, int], tuple[MspSplit, tuple[Slice, ...]]]:
        """By (chunk, subsequence)."""
        splits = {}
        for msp_split in self.msp_splits:
            rows = zip(msp_split.subsequences, msp_split.lengths_tokens, strict=True)
            for index, lengths in rows:
                assert sum(lengths) == self.lengths_tokens[index]
                starts = itertools.accumulate(lengths, initial=0)
                slices = tuple(map(Slice, msp_split.ranks, starts, lengths))
                splits[msp_split.part, index] = msp_split, slices
        return splits

    def is_split(self, part: int, subsequence: int) -> bool:
        """Whether several ranks compute a subsequence in a chunk."""
        return (part, subsequence) in self._splits

    def split_of(self, part: int, subsequence: int) -> MspSplit:
        """The split of a subsequence that has one."""
        return self._splits[part, subsequence][0]

    def slices(self, part: int, subsequence: int) -> tuple[Slice, ...]:
        """The slices of a subsequence in a chunk, in the order of their tokens."""
        key = part, subsequence
        known = self._known_slices.get(key)
        if known is None:
            if key in self._splits:
                known = self._splits[key][1]
            else:
                owner = part % self.pipeline_parallel
                known = (Slice(owner, 0, self.lengths_tokens[subsequence]),)
            self._known_slices[key] = known
        return known

    @cached_property
    def _known_slices(self) -> dict[tuple[int, int], tuple[Slice, ...]]:
        return {}

    def slice_of(self, part: int, subsequence: int, rank: int) -> int | None:
        """The number of the slice that a rank computes, if any."""
        slices = enumerate(self.slices(part, subsequence))
        return next((number for number, each in slices if each.rank == rank), None)

    def tokens_of(self, part: int, subsequence: int, rank: int) -> int:
        """Tokens that a rank computes."""
        return sum(each.tokens for each in self.slices(part, subsequence) if each.rank == rank)

    def pieces(self, part: int, subsequence: int) -> tuple[Piece, ...]:
        """The hidden states between `part` and the next chunk, by the slices of both."""
        key = part, subsequence
        if key not in self._known_pieces:
            self._known_pieces[key] = tuple(self._pieces(part, subsequence))
        return self._known_pieces[key]

    @cached_property
    def _known_pieces(self) -> dict[tuple[int, int], tuple[Piece, ...]]:
        return {}

    def _pieces(self, part: int, subsequence: int) -> Iterator[Piece]:
        for source, before in enumerate(self.slices(part, subsequence)):
            for target, after in enumerate(self.slices(part + 1, subsequence)):
                start = max(before.start, after.start)
                end = min(before.start + before.tokens, after.start + after.tokens)
                if start < end:
                    yield Piece(source, target, start, end - start)

    def helpers(self, msp_split: MspSplit) -> list[tuple[int, int]]:
        """(slice, rank) of every helper of a split: all its ranks but the owner."""
        owner = msp_split.part % self.pipeline_parallel
        return [(number, rank) for number, rank in enumerate(msp_split.ranks) if rank != owner]

    def splits_helped_by(self, rank: int) -> tuple[MspSplit, ...]:
        """The splits in which a rank helps another one, in the order of the forward."""
        return tuple(
            msp_split
            for msp_split in self.msp_splits
            if rank in msp_split.ranks and rank != msp_split.part % self.pipeline_parallel
        )

    def keeps_weights(self, rank: int, msp_split: MspSplit) -> bool:
        """Whether a helper still has the split's weights when the backward begins."""
        return self.splits_helped_by(rank)[-1] == msp_split
