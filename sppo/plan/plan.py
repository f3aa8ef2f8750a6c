"""The Plan: everything the solver decided, and what it predicts. Data only, no torch.

For people: `planner/report/card.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from sppo.config.models import Model
from sppo.config.workload import Workload
from sppo.plan.layout import Layout
from sppo.plan.msp import MspSplit
from sppo.plan.parts import PartShape
from sppo.plan.prediction import Prediction
from sppo.plan.saved_tensors import SavedTensorKey


@dataclass(frozen=True, kw_only=True)
class Untracked:
    """Device bytes of a stage beside its tracked tensors (`memory_model/untracked.py`).

    code: what kernels keep for good, for each new shape. scratch: the most that one kernel takes
    while it runs. workspaces: of the matrix library. communicators: buffers for messages. process:
    what the allocator rounds up. `reserved` of their sum lie in the profile's reserve, outside the
    limit.
    """

    code: int = 0
    scratch: int = 0
    workspaces: int = 0
    communicators: int = 0
    process: int = 0
    reserved: int = 0

    @property
    def total(self) -> int:
        return self.code + self.scratch + self.workspaces + self.communicators + self.process

    @property
    def charged(self) -> int:
        """Bytes that count against the device's limit."""
        return self.total - self.reserved


@dataclass(frozen=True, kw_only=True)
class StageMemory:
    """Predicted device bytes of one stage at its fullest moment, and its host tier.

    `kept` (activations), `staging` and `temporary`, what a forward or backward allocates and frees,
    are those of that moment; all others stay as they are. `kept_peak` is the peak of kept
    activations, `activations_peak` with KV and dKV: exact, counted by the accounting mode.
    Host tier: `host` is the arena of what travels, `kv_host` K, V, dK and dV where they lie there.
    `total` are tracked tensors; the device holds `untracked` beside them.
    """

    weights: int
    gradients: int
    optimizer: int
    kv: int
    dkv: int
    kept: int
    kept_peak: int
    staging: int
    constants: int
    temporary: int
    host: int
    kv_host: int
    untracked: Untracked = Untracked()

    @property
    def device_peak(self) -> int:
        """What the device's limit must leave room for."""
        return self.total + self.untracked.charged

    @property
    def activations_peak(self) -> int:
        return self.kv + self.dkv + self.kept_peak

    @property
    def total(self) -> int:
        return (
            self.weights
            + self.gradients
            + self.optimizer
            + self.kv
            + self.dkv
            + self.kept
            + self.staging
            + self.constants
            + self.temporary
        )


@dataclass(frozen=True, kw_only=True)
class PartPlan:
    """Consecutive layers [first, last), maybe the head; by subsequence what travels or is remade.

    `offload_share`: bytes that travel over bytes that are kept (so without the recomputed ones).
    A unit that is recomputed is so in every layer of the part.
    """

    layers: tuple[int, int]
    head: bool
    offload_share: tuple[float, ...]
    offload_units: tuple[tuple[SavedTensorKey, ...], ...]
    recompute_units: tuple[tuple[str, ...], ...]

    @property
    def layer_range(self) -> range:
        return range(*self.layers)


@dataclass(frozen=True, kw_only=True)
class StagePlan:
    """One pipeline stage: its parts (one, unless stages are interleaved) and its memory."""

    parts: tuple[PartPlan, ...]
    memory: StageMemory

    @property
    def layers(self) -> tuple[int, ...]:
        """All layers of the stage, in order."""
        return tuple(layer for part in self.parts for layer in part.layer_range)

    @property
    def head(self) -> bool:
        return any(part.head for part in self.parts)

    @property
    def offload_share(self) -> float:
        """Mean share of kept bytes that travels, over parts and subsequences."""
        shares = [share for part in self.parts for share in part.offload_share]
        return sum(shares) / len(shares)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How one workload runs under SPPO: (SP, PP, N, cut, what travels), with reasons.

    With `virtual_stages` V > 1 the layers form PP x V parts; part k runs on stage k mod PP, so a
    subsequence passes every stage V times and the pipeline's idle ends shrink by V.
    `prediction` is None before the plan is simulated, and where it was changed since.
    """

    workload: str
    model: Model
    sequence_tokens: int
    sequences_per_step: int
    element_bytes: int
    hardware: str
    layout: Layout
    stages: tuple[StagePlan, ...]
    fetch_ahead: int
    prediction: Prediction | None = None
    reasons: tuple[str, ...] = ()
    rejected: tuple[str, ...] = ()

    @property
    def predicted(self) -> Prediction:
        """The prediction. Raises ValueError where there is none."""
        if self.prediction is None:
            raise ValueError(f"the plan of {self.workload} has not been simulated")
        return self.prediction

    @property
    def makespan_seconds(self) -> float:
        return self.predicted.makespan_seconds

    @property
    def reduction_seconds(self) -> float:
        return self.predicted.reduction_seconds

    @property
    def bubble_share(self) -> float:
        return self.predicted.bubble_share

    @property
    def sequence_parallel(self) -> int:
        return self.layout.sequence_parallel

    @property
    def pipeline_parallel(self) -> int:
        return self.layout.pipeline_parallel

    @property
    def data_parallel(self) -> int:
        return self.layout.data_parallel

    @property
    def virtual_stages(self) -> int:
        return self.layout.virtual_stages

    @property
    def group_subsequences(self) -> int:
        return self.layout.group_subsequences

    @property
    def kv_block_tokens(self) -> int:
        return self.layout.kv_block_tokens

    @property
    def kv_sets(self) -> int:
        return self.layout.kv_sets

    @property
    def head_alone(self) -> bool:
        return self.layout.head_alone

    @property
    def lengths_tokens(self) -> tuple[int, ...]:
        return self.layout.lengths_tokens

    @property
    def msp_splits(self) -> tuple[MspSplit, ...]:
        return self.layout.msp_splits

    @property
    def subsequences(self) -> int:
        return self.layout.subsequences

    @property
    def starts_tokens(self) -> tuple[int, ...]:
        return self.layout.starts_tokens

    @property
    def degrees_words(self) -> str:
        return self.layout.degrees_words

    @property
    def receive_ahead(self) -> int:
        return self.layout.receive_ahead

    @property
    def ranks(self) -> int:
        return self.sequence_parallel * self.pipeline_parallel * self.data_parallel

    @property
    def sequences(self) -> int:
        """Sequences of a step that pass each replica."""
        return self.sequences_per_step // self.data_parallel

    @cached_property
    def parts(self) -> tuple[PartPlan, ...]:
        """All chunks of the model, first layers first."""
        return tuple(
            self.stages[part % self.pipeline_parallel].parts[part // self.pipeline_parallel]
            for part in range(self.layout.part_count)
        )

    def recomputed(self, part: int, subsequence: int, rank: int) -> tuple[str, ...]:
        """Saved tensors that a rank recomputes of a subsequence, or of its MSP slice of it."""
        if rank == part % self.pipeline_parallel:
            return self.parts[part].recompute_units[subsequence]
        return self.layout.slicing.split_of(part, subsequence).recompute_units


@dataclass(frozen=True, kw_only=True)
class StepPlans:
    """The plans of a training run: of its whole steps, and of the short first step."""

    whole: Plan
    short: Plan


def check_plan(plan: Plan, workload: Workload) -> None:
    """Raise ValueError if a plan was made for another workload."""
    if sum(plan.lengths_tokens) != plan.sequence_tokens:
        raise ValueError(
            f"the plan's lengths sum to {sum(plan.lengths_tokens)}, not {plan.sequence_tokens}"
        )
    if plan.sequences_per_step != workload.sequences_per_step:
        raise ValueError(
            f"the plan is for {plan.sequences_per_step} sequences a step, the workload has "
            f"{workload.sequences_per_step}"
        )
    if plan.model != workload.model:
        raise ValueError(
            f"the plan is for {plan.model.name}, the workload has {workload.model.name}"
        )


def part_shape(plan: Plan, part: int) -> PartShape:
    """A part of a plan, for the memory model."""
    mine = plan.parts[part]
    return PartShape(
        model=plan.model,
        layers=mine.layer_range,
        head=mine.head,
        element_bytes=plan.element_bytes,
        shards=plan.sequence_parallel,
        replicas=plan.data_parallel,
    )
