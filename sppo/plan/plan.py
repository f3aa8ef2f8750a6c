"""The Plan: everything the solver decided, and its prediction. Data only, no torch.

For people: `planner/report/card.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from sppo.config.models import Model
from sppo.config.workload import Workload
from sppo.plan.layout import Layout
from sppo.plan.parts import PartShape
from sppo.plan.saved_tensors import SavedTensorKey


@dataclass(frozen=True, kw_only=True)
class Untracked:
    """Device bytes of a stage that no tracked tensor shows (`memory_model/untracked.py`).

    code: machine code of kernels, kept for each new shape. scratch: the most that one kernel takes
    while it runs. workspaces: of the matrix library. communicators: buffers for messages. process:
    lost to the allocator's rounding. `reserved` of their sum lie in the profile's reserve, outside
    the limit.
    """

    code: int = 0
    scratch: int = 0
    workspaces: int = 0
    communicators: int = 0
    process: int = 0
    reserved: int = 0

    @property
    def total(self) -> int:
        """All untracked bytes."""
        return self.code + self.scratch + self.workspaces + self.communicators + self.process

    @property
    def charged(self) -> int:
        """Bytes that count against the device's limit."""
        return self.total - self.reserved


@dataclass(frozen=True, kw_only=True)
class StageMemory:
    """Predicted device bytes of one stage at its peak, and those of its host tier.

    `kept` (saved tensors), `staging` (messages and rings) and `temporary` (allocated and freed
    in a forward or backward) are those at the peak; all others stay as they are. `kept_peak` is
    the peak of saved tensors, `activations_peak` with KV and dKV: exact, counted by the accounting
    mode. Host tier: `host` is the arena of offloaded saved tensors, `kv_host` that of K, V, dK and
    dV. `total` are tracked tensors; the device holds `untracked` as well.
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
        """Bytes that the device's limit must leave room for."""
        return self.total + self.untracked.charged

    @property
    def activations_peak(self) -> int:
        """The peak of saved tensors with KV and dKV."""
        return self.kv + self.dkv + self.kept_peak

    @property
    def total(self) -> int:
        """All tracked bytes at the peak."""
        state = self.weights + self.gradients + self.optimizer + self.kv + self.dkv
        return state + self.kept + self.staging + self.constants + self.temporary


@dataclass(frozen=True, kw_only=True)
class PartPlan:
    """A model chunk: layers [first, last), maybe the head, and its decisions by subsequence.

    `offload_share`: offloaded bytes over saved bytes (without the recomputed ones). A saved tensor
    in `recompute_units` is recomputed in every layer of the chunk.
    """

    layers: tuple[int, int]
    head: bool
    offload_share: tuple[float, ...]
    offload_units: tuple[tuple[SavedTensorKey, ...], ...]
    recompute_units: tuple[tuple[str, ...], ...]

    @property
    def layer_range(self) -> range:
        """Numbers of the layers."""
        return range(*self.layers)


@dataclass(frozen=True, kw_only=True)
class StagePlan:
    """One pipeline stage: its model chunks (one, unless stages are interleaved) and its memory."""

    parts: tuple[PartPlan, ...]
    memory: StageMemory

    @property
    def layers(self) -> tuple[int, ...]:
        """All layers of the stage, in order."""
        return tuple(layer for part in self.parts for layer in part.layer_range)

    @property
    def head(self) -> bool:
        """Whether the stage has the head."""
        return any(part.head for part in self.parts)

    @property
    def offload_share(self) -> float:
        """Mean share of saved bytes that is offloaded, over chunks and subsequences."""
        shares = [share for part in self.parts for share in part.offload_share]
        return sum(shares) / len(shares)


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """Times of a step, simulated from a hardware profile, and the messages between its stages.

    Times are those of forward and backward without the optimizer. `reduction_seconds` of the
    makespan are the sums over replicas that follow. `messages` and `message_bytes`: sent by one
    rank of each stage to other stages in a step.
    """

    makespan_seconds: float
    reduction_seconds: float
    bubble_share: float
    messages: tuple[int, ...] = ()
    message_bytes: tuple[int, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Plan(Layout):
    """How one workload runs under SPPO: a layout with its decisions, and the reasons.

    With `virtual_stages` V > 1 the layers form PP x V model chunks. Chunk k runs on stage k mod PP:
    a subsequence passes every stage V times, and the pipeline's bubble shrinks by V. `prediction`
    is None before the plan is simulated, and after a change.
    """

    workload: str
    model: Model
    sequence_tokens: int
    sequences_per_step: int
    element_bytes: int
    hardware: str
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
        """See `Prediction`."""
        return self.predicted.makespan_seconds

    @property
    def reduction_seconds(self) -> float:
        """See `Prediction`."""
        return self.predicted.reduction_seconds

    @property
    def bubble_share(self) -> float:
        """See `Prediction`."""
        return self.predicted.bubble_share

    @property
    def ranks(self) -> int:
        """Ranks of all replicas: SP x PP x DP."""
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
            for part in range(self.part_count)
        )

    def recomputed(self, part: int, subsequence: int, rank: int) -> tuple[str, ...]:
        """Saved tensors that a rank recomputes of a subsequence, or of its MSP slice of it."""
        if rank == part % self.pipeline_parallel:
            return self.parts[part].recompute_units[subsequence]
        return self.split_of(part, subsequence).recompute_units


@dataclass(frozen=True, kw_only=True)
class StepPlans:
    """The plans of a training run: of its whole steps, and of the short first step."""

    whole: Plan
    short: Plan


def check_plan(plan: Plan, workload: Workload) -> None:
    """Raise ValueError if a plan was made for another workload."""
    tokens = sum(plan.lengths_tokens)
    if tokens != plan.sequence_tokens:
        raise ValueError(f"the plan's lengths sum to {tokens}, not {plan.sequence_tokens}")
    planned, wanted = plan.sequences_per_step, workload.sequences_per_step
    if planned != wanted:
        raise ValueError(f"the plan is for {planned} sequences a step, the workload has {wanted}")
    if plan.model != workload.model:
        names = plan.model.name, workload.model.name
        raise ValueError("the plan is for {}, the workload has {}".format(*names))


def part_shape(plan: Plan, part: int) -> PartShape:
    """A model chunk of a plan, as the memory model reads it."""
    chunk = plan.parts[part]
    return PartShape(
        model=plan.model,
        layers=chunk.layer_range,
        head=chunk.head,
        element_bytes=plan.element_bytes,
        shards=plan.sequence_parallel,
        ulysses=plan.ulysses_parallel,
        context=plan.context_parallel,
        replicas=plan.data_parallel,
        stages=plan.pipeline_parallel,
        sharded_weights=plan.sharded_weights,
        exchange_pieces=plan.exchange_pieces,
    )
