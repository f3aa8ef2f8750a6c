"""Layouts with compute times: SP, PP, chunks a stage, N and the cut, before memory is planned."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import Any, Literal, NamedTuple

from sppo.config.hardware import Hardware
from sppo.config.models import Model
from sppo.config.workload import Workload
from sppo.cost_model.links import copies_group
from sppo.cost_model.times import (
    WHOLE,
    BlockSeconds,
    Gathered,
    block_seconds,
    cut_seconds,
    gathered_of,
    reduction_seconds,
)
from sppo.plan.blocks import block_of
from sppo.plan.layout import Layout, layout_fields, split_layers
from sppo.plan.msp import msp_splits
from sppo.plan.parts import PartShape, SubsequenceCost, state_elements
from sppo.planner.layouts.partition import ALIGNMENT_TOKENS, slice_cut

Ends = Literal["fill", "both"]
"""When the stages of a pipeline split subsequences: while it fills, or also while it drains."""


@dataclass(frozen=True, kw_only=True)
class TimedLayout(Layout):
    """A layout of a workload on some hardware, with its compute times but no decisions."""

    workload: Workload
    profile: Hardware

    @classmethod
    def of(cls, layout: Layout, workload: Workload, profile: Hardware) -> TimedLayout:
        """`layout` with the workload and hardware that its compute times are of."""
        return cls(workload=workload, profile=profile, **layout_fields(layout))

    @property
    def may_split(self) -> bool:
        """Whether MSP is possible: several stages, and unmixed sequences.

        Helpers gather no K and V, so no ranks have the same heads. Owners send whole weights.
        """
        whole = self.context_parallel == 1 and not self.sharded_weights
        return self.pipeline_parallel > 1 and self.kv_sets == 1 and whole

    def with_msp(self, ends: Ends) -> TimedLayout:
        """The same layout with multiplexed sequence partitioning (paper sec. 6.2)."""
        stages = self.pipeline_parallel
        splits = msp_splits(
            stages,
            stages * self.virtual_stages,
            self.subsequences,
            self._slices,
            drains=ends == "both",
        )
        if self.workload.device_memory_bytes is not None:
            cheap = block_of(self.workload.model).recompute_cheap
            splits = tuple(replace(split, recompute_units=cheap) for split in splits)
        made = replace(self, msp_splits=splits)
        made.memo["stages"] = self.stage_memo
        return made

    @property
    def stage_memo(self) -> dict[Any, Any]:
        """Results of `StageMemoryModel`, the same with and without MSP."""
        memo: dict[Any, Any] = self.memo.setdefault("stages", {})
        return memo

    def _slices(self, part: int, index: int, ranks: int) -> tuple[int, ...] | None:
        start, tokens = self.starts_tokens[index], self.lengths_tokens[index]
        shards = self.sequence_parallel
        alignment = min(ALIGNMENT_TOKENS, tokens // ranks // shards) * shards
        if alignment < 1:
            return None
        return slice_cut(self.workload.model, start, tokens, ranks, alignment=alignment)

    @property
    def sequences(self) -> int:
        """Sequences of a step that pass each replica."""
        return self.workload.sequences_per_step // self.data_parallel

    @cached_property
    def shapes(self) -> tuple[PartShape, ...]:
        """The chunks, first layers first; chunk k belongs to stage k mod PP.

        The head is in the last chunk, or a chunk of its own without layers.
        """
        return _chunk_shapes(self._division)

    @cached_property
    def _division(self) -> _Division:
        return _Division(
            self.workload.model,
            self.workload.element_bytes,
            self.sequence_parallel,
            self.ulysses_parallel,
            self.context_parallel,
            self.data_parallel,
            self.sharded_weights,
            self.pipeline_parallel,
            self.virtual_stages,
            self.head_alone,
            self.exchange_pieces,
        )

    def stage_shapes(self, stage: int) -> tuple[PartShape, ...]:
        """The shapes of the chunks that a stage owns."""
        return self.shapes[stage :: self.pipeline_parallel]

    @property
    def end_stages(self) -> tuple[int, ...]:
        """The first and the last stage, which hold the embedding and the head."""
        return tuple(sorted({0, self.pipeline_parallel - 1}))

    def part_costs(self, shape: PartShape) -> tuple[SubsequenceCost, ...]:
        """Compute times of one chunk, by subsequence."""
        key = len(shape.layers), shape.head
        if key not in self.memo:
            model, ranks = self.workload.model, self._stage_degrees
            blocks = subsequence_blocks(model, self.profile, self.lengths_tokens, ranks)
            self.memo[key] = tuple(block.part(*key) for block in blocks)
        costs: tuple[SubsequenceCost, ...] = self.memo[key]
        return costs

    def part_ns(self, shape: PartShape) -> list[int]:
        """Forward and backward of one chunk together, by subsequence."""
        return [cost.forward_ns + cost.backward_ns for cost in self.part_costs(shape)]

    @cached_property
    def cut_times(self) -> CutTimes:
        """Sums over the subsequences, which layouts of one cut, SP and Ulysses degree share."""
        ranks = self._stage_degrees
        return _cut_times(self.workload.model, self.profile, self.lengths_tokens, ranks)

    @property
    def _stage_degrees(self) -> StageDegrees:
        degrees = self.sequence_parallel, self.ulysses_parallel, self.context_parallel
        return StageDegrees(*degrees, gathered_of(self.shapes[0]), self.exchange_pieces)

    def chunk_layers(self, part: int) -> int:
        """Layers of a chunk: see `split_layers`."""
        least, more = divmod(
            self.workload.model.layers, self.pipeline_parallel * self.virtual_stages
        )
        return least + (part < more)

    def stage_layers(self, stage: int) -> int:
        """Layers of all chunks of a stage."""
        count = self.pipeline_parallel * self.virtual_stages
        return sum(map(self.chunk_layers, range(stage, count, self.pipeline_parallel)))

    @cached_property
    def memo(self) -> dict[Any, Any]:
        """Results that hold for all stages."""
        return {}

    @cached_property
    def work_and_ends_seconds(self) -> tuple[float, float]:
        """Compute of the fullest stage in a step, and its wait at the pipeline's ends.

        The wait is (PP - 1) times the longest subsequence of a chunk: the other stages compute the
        subsequence first. A head on its own is computed in the wait; only its excess counts.
        """
        times = self.cut_times
        stages = []
        for stage in self.end_stages:
            has_head = stage == self.pipeline_parallel - 1 and not self.head_alone
            longest = self.chunk_layers(stage) * times.longest
            ends = (self.pipeline_parallel - 1) * (longest + has_head * times.longest_head)
            heads = times.head if has_head else 0.0
            if self.head_alone and stage == 0:
                heads = max(0.0, times.head - ends)
            work = self.sequences * (self.stage_layers(stage) * times.total + heads)
            stages.append((work, ends))
        work, ends = max(stages, key=sum)
        return work, ends

    @property
    def least_seconds(self) -> float:
        """Makespan of the fullest stage, if nothing waits for copies, messages or memory.

        An estimate: the longest subsequence need not be the one at the ends. A simulated step may
        be a few parts in a thousand shorter.
        """
        return sum(self.work_and_ends_seconds) + self.reduction_seconds

    @cached_property
    def reduction_seconds(self) -> float:
        """Gradients summed over the copies of weights, and weights collected, once a step."""
        if self.weight_copies == 1:
            return 0.0
        copies = copies_group(
            self.sequence_parallel,
            self.tensor_parallel,
            self.pipeline_parallel,
            self.data_parallel,
        )
        elements = _most_elements(self._division)
        return reduction_seconds(self.profile, elements=elements, copies=copies)

    def __str__(self) -> str:
        chunks = "1 chunk" if self.virtual_stages == 1 else f"{self.virtual_stages} chunks"
        hosted = ", K and V in the host tier" if self.kv_block_tokens else ""
        msp = ", MSP" if self.msp_splits else ""
        return f"{self.sharding_words}, {chunks} a stage, N {self.subsequences}{hosted}{msp}"


class _Division(NamedTuple):
    """What the shapes of a layout's chunks depend on; layouts that differ in their cut share it."""

    model: Model
    element_bytes: int
    shards: int
    ulysses: int
    context: int
    replicas: int
    sharded_weights: bool
    stages: int
    virtual_stages: int
    head_alone: bool
    exchange_pieces: int


@lru_cache(maxsize=4096)
def _chunk_shapes(division: _Division) -> tuple[PartShape, ...]:
    """See `TimedLayout.shapes`."""
    layers = division.model.layers
    ranges = split_layers(layers, division.stages * division.virtual_stages)
    if division.head_alone:
        ranges += ((layers, layers),)
    return tuple(
        PartShape(
            model=division.model,
            layers=range(*part),
            head=number == len(ranges) - 1,
            element_bytes=division.element_bytes,
            shards=division.shards,
            ulysses=division.ulysses,
            context=division.context,
            replicas=division.replicas,
            stages=division.stages,
            sharded_weights=division.sharded_weights,
            exchange_pieces=division.exchange_pieces,
        )
        for number, part in enumerate(ranges)
    )


@lru_cache(maxsize=4096)
def _most_elements(division: _Division) -> int:
    """Elements that copies of the weights sum after a step, of the fullest stage."""
    shapes, stages = _chunk_shapes(division), division.stages
    return max(state_elements(shapes[stage::stages]).whole for stage in range(stages))


class CutTimes(NamedTuple):
    """Seconds of a cut's subsequences: forward and backward of a block together, and the head's.

    total, head: sums. first, final, final_head: of the first and of the last one. longest,
    longest_head: the largest.
    """

    total: float
    head: float
    first: float
    final: float
    final_head: float
    longest: float
    longest_head: float


class StageDegrees(NamedTuple):
    """Ranks of a stage; groups of `ulysses` have the same weights, of `context` the same heads.

    gathered, pieces: see `block_seconds`.
    """

    shards: int
    ulysses: int
    context: int
    gathered: Gathered = WHOLE
    pieces: int = 1


@lru_cache(maxsize=4096)
def _cut_times(
    model: Model, profile: Hardware, lengths: tuple[int, ...], ranks: StageDegrees
) -> CutTimes:
    blocks: Any = cut_seconds(model, profile, lengths, **ranks._asdict())
    both, heads = blocks.forward + blocks.backward, blocks.head
    values = both.sum(), heads.sum(), both[0], both[-1], heads[-1], both.max(), heads.max()
    return CutTimes(*map(float, values))


@lru_cache(maxsize=1024)
def subsequence_blocks(
    model: Model, profile: Hardware, lengths: tuple[int, ...], ranks: StageDegrees
) -> tuple[BlockSeconds, ...]:
    """Compute times of one block, and of the head, by subsequence of a cut."""
    starts = itertools.accumulate(lengths[:-1], initial=0)
    return tuple(
        block_seconds(model, profile, start=start, tokens=tokens, **ranks._asdict())
        for start, tokens in zip(starts, lengths, strict=True)
    )
