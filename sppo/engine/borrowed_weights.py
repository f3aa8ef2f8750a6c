"""Room for the weights of other stages' parts, and for their gradients, on a rank that helps."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from sppo.engine.context import EngineContext
from sppo.model.weights import Weight, stage_weight_shapes
from sppo.offload.activation_store import storage_key
from sppo.plan.msp import MspSplit
from sppo.plan.plan import Plan


class HelperWeights:
    """Another stage's part: its parameters one after another in one buffer, gradients likewise."""

    def __init__(
        self, shapes: Mapping[str, tuple[int, ...]], values: Tensor, gradients: Tensor
    ) -> None:
        size = _elements(shapes)
        self.values, self.gradients = values[:size], gradients[:size]
        self._weights: dict[str, Weight] = {}
        at = 0
        for name, shape in shapes.items():
            span = slice(at, at + math.prod(shape))
            at = span.stop
            self._weights[name] = Weight(values[span].view(shape), gradients[span].view(shape))

    @property
    def device(self) -> torch.device:
        return self.values.device

    def __getitem__(self, name: str) -> Weight:
        return self._weights[name]

    def get(self, name: str) -> Weight | None:
        return self._weights.get(name)

    def storage_keys(self) -> frozenset[int]:
        return frozenset((storage_key(self.values),))


class HelperRoom:
    """Room for one borrowed part's weights and gradients; a rank borrows one part at a time."""

    def __init__(self, plan: Plan, msp_splits: Sequence[MspSplit], context: EngineContext) -> None:
        self._shapes = {
            msp_split.part: part_shapes(plan, msp_split.part) for msp_split in msp_splits
        }
        size = max((_elements(shapes) for shapes in self._shapes.values()), default=0)
        precision = torch.float64 if context.dtype == torch.float64 else torch.float32
        self.values = torch.empty(size, device=context.device, dtype=context.dtype)
        self.gradients = torch.zeros(size, device=context.device, dtype=precision)
        for kind, tensor in self.tensors().items():
            context.label(kind, tensor)

    def of(self, msp_split: MspSplit) -> HelperWeights:
        return HelperWeights(self._shapes[msp_split.part], self.values, self.gradients)

    def tensors(self) -> Mapping[Any, Tensor]:
        return {"weights": self.values, "gradients": self.gradients} if self._shapes else {}


def part_shapes(plan: Plan, part: int) -> dict[str, tuple[int, ...]]:
    """Parameter of a part -> the shape of a rank's shard, in the order in which they travel."""
    mine = plan.parts[part]
    return stage_weight_shapes(plan.model, mine.layer_range, mine.head, plan.sequence_parallel)


def _elements(shapes: Mapping[str, tuple[int, ...]]) -> int:
    return sum(math.prod(shape) for shape in shapes.values())
