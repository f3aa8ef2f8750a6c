"""FLOPs of a step as exact integers.

A multiply-add is two; attention is counted causal (the pairs really needed) unless a name says
"full"; a backward counts twice its forward. Those of a block are in its description.
"""

from __future__ import annotations

from dataclasses import dataclass

from sppo.config.models import Model
from sppo.config.workload import Workload
from sppo.plan.blocks import block_of


def head_flops_per_token(model: Model) -> int:
    """Forward FLOPs of the output head, per token."""
    return 2 * model.hidden * model.vocabulary


@dataclass(frozen=True, kw_only=True)
class StepFlops:
    """FLOPs of one optimizer step over all ranks, forward and backward, without recompute."""

    dense: int
    attention_causal: int
    attention_full: int

    @property
    def causal(self) -> int:
        """All FLOPs, attention counted causal."""
        return self.dense + self.attention_causal

    @property
    def full(self) -> int:
        """All FLOPs, attention counted without a mask."""
        return self.dense + self.attention_full


def step_flops(workload: Workload) -> StepFlops:
    """FLOPs that a step of the workload needs under any system."""
    model, tokens = workload.model, workload.sequence_tokens
    block = block_of(model)
    dense = model.layers * block.dense_flops_per_token + head_flops_per_token(model)
    causal = model.layers * block.mixer_flops(0, tokens)
    full = model.layers * block.mixer_flops_per_pair * tokens * tokens
    sequences = workload.sequences_per_step
    return StepFlops(
        dense=3 * sequences * tokens * dense,
        attention_causal=3 * sequences * causal,
        attention_full=3 * sequences * full,
    )
