"""How ranks share a model and a sequence: degrees, chunks, subsequences, MSP splits."""

from __future__ import annotations

import itertools
from collections import Counter
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any, NamedTuple

from sppo.plan.msp import Slicing


class Degrees(NamedTuple):
    """Ranks that share a stage, stages of a pipeline, pipelines with sequences of their own."""

    shards: int
    stages: int
    replicas: int

    def __str__(self) -> str:
        """ "SP 8 x PP 4", "SP 2 x PP 2 x DP 2"."""
        return self.words()

    def words(self, ulysses: int = 1, context: int = 1) -> str:
        """With the division of a stage: "SP 8 (TP 2 x Ulysses 4) x PP 4", "SP 2 (CP 2) x PP 2"."""
        inside = ""
        if ulysses * context > 1:
            tensor = self.shards // (ulysses * context)
            names = ("TP", tensor), ("Ulysses", ulysses), ("CP", context)
            inside = " x ".join(f"{name} {degree}" for name, degree in names if degree > 1)
            inside = f" ({inside})"
        words = f"SP {self.shards}{inside} x PP {self.stages}"
        return words if self.replicas == 1 else f"{words} x DP {self.replicas}"


@dataclass(frozen=True, kw_only=True)
class Layout(Slicing):
    """One way to lay a workload out over ranks and time, without the decisions.

    `kv_block_tokens` above 0: K and V lie in
    the host tier and are loaded in blocks of so many tokens. `kv_sets` sequences have their keys
    and values at the same time. `head_alone`: the head is a chunk of its own on the first stage.
    `ulysses_parallel` ranks of a stage have the same weights: around attention they exchange tokens
    for heads by all_to_all. `context_parallel` ranks have the same weights and the same heads: each
    has K and V of its own tokens, and gathers those of the others. Both divide `sequence_parallel`.
    `sharded_weights`: ranks with the same weights keep one piece each of a block's matrices, and
    gather them around its compute. `exchange_pieces`: of a subsequence, so many pieces pass the
    all-to-alls around attention, one while attention computes on another.
    """

    sequence_parallel: int
    ulysses_parallel: int = 1
    context_parallel: int = 1
    data_parallel: int = 1
    virtual_stages: int
    group_subsequences: int
    kv_block_tokens: int = 0
    kv_sets: int = 1
    head_alone: bool = False
    sharded_weights: bool = False
    exchange_pieces: int = 1

    @property
    def degrees_words(self) -> str:
        """See `Degrees`."""
        degrees = Degrees(self.sequence_parallel, self.pipeline_parallel, self.data_parallel)
        return degrees.words(self.ulysses_parallel, self.context_parallel)

    @property
    def sharding_words(self) -> str:
        """ "SP 32 (Ulysses 32) x PP 1, sharded weights"."""
        return self.degrees_words + (", sharded weights" if self.sharded_weights else "")

    @property
    def may_exchange_in_pieces(self) -> bool:
        """Whether the queries of a piece may read the prefix alone: no copy or gather repeats."""
        resident = not self.kv_block_tokens and self.context_parallel == 1
        return self.ulysses_parallel > 1 and (resident or self.subsequences == 1)

    @property
    def family(self) -> tuple[int, ...]:
        """The degrees, chunks a stage, place of K and V: everything but the cut."""
        return (*self.degrees, self.sharded_weights, self.virtual_stages, self.kv_block_tokens)

    @property
    def degrees(self) -> tuple[int, int, int, int, int]:
        """SP, PP, DP, Ulysses, CP."""
        return (
            self.sequence_parallel,
            self.pipeline_parallel,
            self.data_parallel,
            self.ulysses_parallel,
            self.context_parallel,
        )

    @property
    def tensor_parallel(self) -> int:
        """Ranks of a stage that divide its weights (TP): SP without the other two degrees."""
        return self.sequence_parallel // (self.ulysses_parallel * self.context_parallel)

    @property
    def head_parallel(self) -> int:
        """Ranks of a stage that divide its heads: TP x Ulysses."""
        return self.sequence_parallel // self.context_parallel

    @property
    def weight_copies(self) -> int:
        """Ranks with the same weights, which share the optimizer's state: Ulysses x CP x DP."""
        return self.ulysses_parallel * self.context_parallel * self.data_parallel

    @property
    def subsequences(self) -> int:
        """Subsequences of a sequence (the paper's N)."""
        return len(self.lengths_tokens)

    @cached_property
    def starts_tokens(self) -> tuple[int, ...]:
        """Position of the first token of each subsequence."""
        return tuple(itertools.accumulate(self.lengths_tokens[:-1], initial=0))

    def summed_tokens(self, part: int) -> int:
        """The first positions, whose dK and dV in a chunk are sums over subsequences.

        No later subsequence adds to those of the last one. Slices of the last one, where MSP splits
        it, add to each other.
        """
        start = self.starts_tokens[-1]
        return start + self.lengths_tokens[-1] if part in self._split_at_the_end else start

    @cached_property
    def _split_at_the_end(self) -> frozenset[int]:
        """The chunks in which several ranks compute the last subsequence."""
        last = self.subsequences - 1
        ends = [split for split in self.msp_splits if split.subsequences[-1] == last]
        return frozenset(msp_split.part for msp_split in ends)

    @property
    def part_count(self) -> int:
        """Chunks of the whole model; chunk k belongs to stage k mod PP."""
        return self.pipeline_parallel * self.virtual_stages + self.head_alone

    def parts_of(self, stage: int) -> list[int]:
        """The chunks that a stage computes: its own, then those it helps with."""
        helped = [msp_split.part for msp_split in self.splits_helped_by(stage)]
        return [*self.own_parts(stage), *helped]

    def own_parts(self, stage: int) -> range:
        """The chunks that a stage owns."""
        return range(stage, self.part_count, self.pipeline_parallel)

    def rank_tokens(self, stage: int) -> tuple[tuple[int, ...], ...]:
        """Tokens that a rank of a stage computes, by [place in `parts_of`][subsequence]."""
        subsequences = range(self.subsequences)
        return tuple(
            tuple(self.tokens_of(part, index, stage) for index in subsequences)
            for part in self.parts_of(stage)
        )

    def connections_of(self, stage: int) -> int:
        """One-way connections of a rank; each channel between two ranks is one of its own.

        At least as many as its schedule uses: NCCL makes a communicator for each.
        """
        return self._connections[stage]

    @cached_property
    def _connections(self) -> Counter[int]:
        """Connections by stage. Each has its way back: of gradients, or of the other's slices."""
        stages = self.pipeline_parallel
        chunks = range(min(self.part_count - 1, stages))
        pairs = {(part % stages, (part + 1) % stages) for part in chunks}
        for msp_split in self.msp_splits:
            for before in (msp_split.part - 1, msp_split.part):
                if 0 <= before < self.part_count - 1:
                    pairs |= self._pipeline_pairs(before, msp_split.subsequences)
        owned = {
            (msp_split.part % stages, rank)
            for msp_split in self.msp_splits
            for _, rank in self.helpers(msp_split)
        }
        sliced: set[tuple[int, int]] = set()
        groups: list[frozenset[int]] = []
        for msp_split in sorted(self.msp_splits, key=lambda split: -len(split.ranks)):
            if not any(group.issuperset(msp_split.ranks) for group in groups):
                groups.append(frozenset(msp_split.ranks))
                sliced.update(itertools.combinations(sorted(msp_split.ranks), 2))
        ends: Counter[int] = Counter()
        for channel in (pairs, owned, sliced):
            for first, second in {(min(pair), max(pair)) for pair in channel}:
                if first != second:
                    ends.update({first: 2, second: 2})
        return ends

    def _pipeline_pairs(self, before: int, subsequences: tuple[int, ...]) -> set[tuple[int, int]]:
        """The ranks between which hidden states of these subsequences pass behind a chunk."""
        pairs = set()
        for index in subsequences:
            here, there = self.slices(before, index), self.slices(before + 1, index)
            for piece in self.pieces(before, index):
                pairs.add((here[piece.source].rank, there[piece.target].rank))
        return pairs

    @property
    def receive_ahead(self) -> int:
        """Computes by which a receive is posted early: a group's messages wait for their turn.

        Those for a head alone wait while the next group passes the first chunk. Those between split
        chunks wait while all other subsequences pass the chunk before.
        """
        least = max(1, self.pipeline_parallel - 1) if self.msp_splits else 1
        if self.virtual_stages == 1:
            return least
        passed = 0 if self.head_alone else self.pipeline_parallel - 1
        return max(least, self.group_subsequences - passed)


def layout_fields(layout: Layout) -> dict[str, Any]:
    """The fields of a layout, which a plan has as well."""
    return {field.name: getattr(layout, field.name) for field in fields(Layout)}


def split_layers(layers: int, stages: int) -> tuple[tuple[int, int], ...]:
    """Consecutive layer ranges; the first stages take the remainder, the last carries the head."""
    if stages > layers:
        raise ValueError(
            f"{layers} layers cannot fill {stages} pipeline stages: use at most {layers} ranks"
        )
    least, remainder = divmod(layers, stages)
    counts = (least + (stage < remainder) for stage in range(stages))
    return tuple(itertools.pairwise(itertools.accumulate(counts, initial=0)))
