"""Buffers on a helper rank for the weights and gradients of an MSP split's model chunk."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from sppo.engine.context import EngineContext
from sppo.model.weights import (
    Weights,
    accumulation_dtype,
    count_elements,
    stage_weight_shapes,
    weight_views,
)
from sppo.plan.msp import MspSplit
from sppo.plan.plan import Plan


class HelperWeights(Weights):
    """The parameters of another stage's chunk: views of one flat buffer, gradients likewise."""

    def __init__(
        self, shapes: Mapping[str, tuple[int, ...]], values: Tensor, gradients: Tensor
    ) -> None:
        super().__init__(weight_views(shapes, values, gradients))
        size = count_elements(shapes)
        self.flat_values = values[:size]
        self.flat_gradients = gradients[:size]


def helper_weights(
    plan: Plan, msp_splits: Sequence[MspSplit], context: EngineContext
) -> dict[int, HelperWeights]:
    """By chunk: weights of the splits that a rank helps with, in the same two buffers.

    A rank helps one owner at a time, so the buffers have the size of the largest chunk.
    """
    parts = {split.part: part_shapes(plan, split.part) for split in msp_splits}
    size = max((count_elements(shapes) for shapes in parts.values()), default=0)
    values = torch.empty(size, device=context.device, dtype=context.dtype)
    gradients = torch.zeros(size, device=context.device, dtype=accumulation_dtype(context.dtype))
    return {part: HelperWeights(shapes, values, gradients) for part, shapes in parts.items()}


def part_shapes(plan: Plan, part: int) -> dict[str, tuple[int, ...]]:
    """Parameter of a chunk -> the shape of a rank's shard, in the order of MSP weight messages."""
    chunk = plan.parts[part]
    return stage_weight_shapes(plan.model, chunk.layer_range, chunk.head, plan.tensor_parallel)
