"""The Plan: everything the solver decided, and what it predicts. Data only, no torch."""

from __future__ import annotations

from dataclasses import dataclass

from sppo.workload import Model, Workload, format_bytes

UnitKey = tuple[int, str]
"""(index of the layer inside its stage, unit name of `units.py`)."""


@dataclass(frozen=True, kw_only=True)
class StageMemory:
    """Predicted device bytes of one stage, and its host tier. Peaks; `total` is their joint peak.

    `activations_peak` is the joint peak of kept activations, KV and dKV: exact, counted by the
    accounting mode. `temporary` is a bound on what one forward or backward allocates and frees.
    """

    weights: int
    gradients: int
    optimizer: int
    kv: int
    dkv: int
    kept_peak: int
    staging: int
    constants: int
    temporary: int
    host: int

    @property
    def activations_peak(self) -> int:
        return self.kv + self.dkv + self.kept_peak

    @property
    def total(self) -> int:
        return (
            self.weights
            + self.gradients
            + self.optimizer
            + self.activations_peak
            + self.staging
            + self.constants
            + self.temporary
        )


@dataclass(frozen=True, kw_only=True)
class StagePlan:
    """One pipeline stage: its layers, and per subsequence the share and the units that travel."""

    layers: tuple[int, int]
    offload_share: tuple[float, ...]
    offload_units: tuple[tuple[UnitKey, ...], ...]
    memory: StageMemory

    @property
    def layer_range(self) -> range:
        return range(*self.layers)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How one workload runs under SPPO: (SP, PP, N, cut, what travels), with reasons.

    Times are simulated from the profile, for forward and backward without the optimizer.
    """

    workload: str
    model: Model
    sequence_tokens: int
    sequences_per_step: int
    element_bytes: int
    hardware: str
    sequence_parallel: int
    pipeline_parallel: int
    lengths_tokens: tuple[int, ...]
    stages: tuple[StagePlan, ...]
    fetch_ahead: int
    makespan_seconds: float
    bubble_share: float
    reasons: tuple[str, ...]
    rejected: tuple[str, ...]

    @property
    def subsequences(self) -> int:
        return len(self.lengths_tokens)

    @property
    def starts_tokens(self) -> tuple[int, ...]:
        """Position of the first token of each subsequence."""
        starts = [0]
        for length in self.lengths_tokens[:-1]:
            starts.append(starts[-1] + length)
        return tuple(starts)

    def card(self) -> str:
        """The plan for people."""
        lengths = self.lengths_tokens
        lines = [
            f"Plan of {self.workload} ({self.model.name}, {self.sequence_tokens:,} tokens x "
            f"{self.sequences_per_step}) on {self.hardware}",
            f"  SP {self.sequence_parallel} x PP {self.pipeline_parallel}, N {self.subsequences}: "
            f"lengths {lengths[0]} .. {lengths[-1]} tokens",
            f"  simulated: forward + backward {self.makespan_seconds:.3f} s, bubble share "
            f"{self.bubble_share:.1%}",
        ]
        for index, stage in enumerate(self.stages):
            memory = stage.memory
            share = sum(stage.offload_share) / len(stage.offload_share)
            lines.append(
                f"  stage {index}: layers {stage.layers[0]}-{stage.layers[1] - 1}, predicted peak "
                f"{format_bytes(memory.total)} (model state "
                f"{format_bytes(memory.weights + memory.gradients + memory.optimizer)}, KV "
                f"{format_bytes(memory.kv)}, dKV {format_bytes(memory.dkv)}, kept "
                f"{format_bytes(memory.kept_peak)}); mean offload share {share:.0%}, host tier "
                f"{format_bytes(memory.host)}"
            )
        lines.extend(f"  because: {reason}" for reason in self.reasons)
        lines.extend(f"  rejected: {reason}" for reason in self.rejected)
        return "\n".join(lines)


def check_plan(plan: Plan, workload: Workload) -> None:
    """Raise ValueError if a plan was made for another workload."""
    if sum(plan.lengths_tokens) != plan.sequence_tokens:
        raise ValueError(
            f"the plan's lengths sum to {sum(plan.lengths_tokens)}, not {plan.sequence_tokens}"
        )
    if plan.model != workload.model:
        raise ValueError(
            f"the plan is for {plan.model.name}, the workload has {workload.model.name}"
        )
