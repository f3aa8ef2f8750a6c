"""FLOPs of a step as exact integers.

A multiply-add is two; attention is counted causal (the pairs really needed) unless a name says
"full"; a backward counts twice its forward.
"""

from __future__ import annotations

from dataclasses import dataclass

from sppo.config.models import Model
from sppo.config.workload import Workload


def layer_dense_flops_per_token(model: Model) -> int:
    """Forward FLOPs of the linear layers of one block, per token."""
    attention = 2 * model.hidden * model.hidden + 2 * model.hidden * model.kv_width
    matrices = 3 if model.activation == "swiglu" else 2
    return 2 * (attention + matrices * model.hidden * model.ffn)


def head_flops_per_token(model: Model) -> int:
    """Forward FLOPs of the output head, per token."""
    return 2 * model.hidden * model.vocabulary


def attention_flops(model: Model, pairs: int) -> int:
    """Forward FLOPs of one block's attention over `pairs` (query, key) pairs: QK^T and PV."""
    return 4 * model.hidden * pairs


def causal_pairs(start: int, tokens: int) -> int:
    """(query, key) pairs of a subsequence of `tokens` that begins at position `start`."""
    return tokens * start + tokens * (tokens + 1) // 2


@dataclass(frozen=True, kw_only=True)
class StepFlops:
    """FLOPs of one optimizer step over all ranks, forward and backward, without recompute."""

    dense: int
    attention_causal: int
    attention_full: int

    @property
    def causal(self) -> int:
        return self.dense + self.attention_causal

    @property
    def full(self) -> int:
        return self.dense + self.attention_full


def step_flops(workload: Workload) -> StepFlops:
    """What the workload needs, whoever runs it."""
    model, tokens = workload.model, workload.sequence_tokens
    dense = model.layers * layer_dense_flops_per_token(model) + head_flops_per_token(model)
    causal = model.layers * attention_flops(model, causal_pairs(0, tokens))
    full = model.layers * attention_flops(model, tokens * tokens)
    sequences = workload.sequences_per_step
    return StepFlops(
        dense=3 * sequences * tokens * dense,
        attention_causal=3 * sequences * causal,
        attention_full=3 * sequences * full,
    )
