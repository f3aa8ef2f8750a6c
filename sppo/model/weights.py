"""The weights of one rank's stage: its shard of every matrix, in flat buffers with their gradients.

Parameters are views of two flat buffers, matrices and vectors, and their gradients of two more: one
AdamW call, one norm, one zero, one reduction over replicas.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from sppo.config.models import Model
from sppo.config.sharding import WHOLE, Shard
from sppo.offload.activation_store import storage_key
from sppo.plan.blocks import block_of
from sppo.plan.weights import canonical_weights


@dataclass(frozen=True)
class Weight:
    """A parameter and its gradient: float32, or float64 where the parameter is."""

    value: Tensor
    gradient: Tensor


def stage_weight_names(
    model: Model, layers: Sequence[int], head: bool
) -> dict[str, tuple[str, ...]]:
    """Parameter of this stage -> the canonical weights it is the row-wise concatenation of.

    Those of a block that are stored together become one matrix: one product instead of many.
    """
    names: dict[str, tuple[str, ...]] = {}
    if 0 in layers:
        names["embedding.weight"] = ("embedding.weight",)
    for layer in layers:
        prefix = f"layers.{layer}."
        for name, parts in block_of(model).stored_weights.items():
            names[prefix + name] = tuple(prefix + part for part in parts)
    if head:
        names["final_norm.weight"] = ("final_norm.weight",)
        if model.norm == "layernorm":
            names["final_norm.bias"] = ("final_norm.bias",)
        names["head.weight"] = ("head.weight",)
    return names


def stage_weight_shapes(
    model: Model, layers: Sequence[int], head: bool, shards: int = 1
) -> dict[str, tuple[int, ...]]:
    """Parameter of these layers -> the shape of one rank's shard of it."""
    canonical = canonical_weights(model)
    shapes = {}
    for name, parts in stage_weight_names(model, layers, head).items():
        pieces = [canonical[part].shard_shape(shards) for part in parts]
        shapes[name] = (sum(piece[0] for piece in pieces), *pieces[0][1:])
    return shapes


def pair_rows(rows: Tensor, head_width: int) -> Tensor:
    """Rows j and j + D / 2 of every head of a weight (or bias), side by side."""
    halves: Tensor = rows.unflatten(0, (-1, 2, head_width // 2))
    return halves.transpose(1, 2).flatten(0, 2)


def stage_value(
    model: Model, weights: Mapping[str, Tensor], parts: tuple[str, ...], shard: Shard = WHOLE
) -> Tensor:
    """One rank's shard of a stage's parameter from its canonical parts.

    They are concatenated; rows that turn together are paired.
    """
    canonical = canonical_weights(model)
    paired = block_of(model).paired_weights
    values = []
    for part in parts:
        value, axis = weights[part], canonical[part].sharded_axis
        if axis is not None:
            value = value.chunk(shard.count, axis)[shard.index]
        if part.rpartition(".")[0].endswith(paired):
            value = pair_rows(value, model.head_width)
        values.append(value)
    return torch.cat(values)


class Weights(Protocol):
    """Parameters by name, wherever they lie."""

    @property
    def device(self) -> torch.device: ...

    def __getitem__(self, name: str) -> Weight: ...

    def get(self, name: str) -> Weight | None: ...

    def storage_keys(self) -> frozenset[int]:
        """Of everything that autograd may save and that outlives the step."""
        ...


class StageWeights:
    """The parameters of one rank's stage with their gradients, in flat buffers.

    `matrices` carry weight decay, `vectors` do not; `matrix_gradients` and `vector_gradients` are
    float32 (float64 for a float64 model). The first `whole_elements` of the vectors are those that
    every shard has; their gradients are parts of a sum. Buffers are padded with zeros to a multiple
    of `replicas`, so that an optimizer can be divided over them.
    """

    def __init__(
        self,
        model: Model,
        layers: Sequence[int],
        weights: Mapping[str, Tensor],
        device: torch.device,
        dtype: torch.dtype,
        *,
        head: bool,
        shard: Shard = WHOLE,
        replicas: int = 1,
    ) -> None:
        sources = stage_weight_names(model, layers, head)
        shapes = stage_weight_shapes(model, layers, head, shard.count)
        canonical = canonical_weights(model)
        whole = [
            name for name, parts in sources.items() if canonical[parts[0]].sharded_axis is None
        ]
        self.whole_elements = sum(math.prod(shapes[name]) for name in whole)
        names = [*whole, *(name for name in sources if name not in whole)]
        sizes = {1: 0, 2: 0}
        for shape in shapes.values():
            sizes[len(shape)] += math.prod(shape)
        self.matrices, self.matrix_gradients = _buffers(sizes[2], replicas, device, dtype)
        self.vectors, self.vector_gradients = _buffers(sizes[1], replicas, device, dtype)
        self._weights: dict[str, Weight] = {}
        used = {1: 0, 2: 0}
        for name in names:
            shape = shapes[name]
            axes = len(shape)
            flat = self.matrices if axes == 2 else self.vectors
            gradients = self.matrix_gradients if axes == 2 else self.vector_gradients
            span = slice(used[axes], used[axes] + math.prod(shape))
            used[axes] = span.stop
            value = stage_value(model, weights, sources[name], shard)
            flat[span].view(shape).copy_(value)
            self._weights[name] = Weight(flat[span].view(shape), gradients[span].view(shape))

    @property
    def device(self) -> torch.device:
        return self.matrices.device

    def __getitem__(self, name: str) -> Weight:
        return self._weights[name]

    def get(self, name: str) -> Weight | None:
        return self._weights.get(name)

    def names(self) -> list[str]:
        return list(self._weights)

    def storage_keys(self) -> frozenset[int]:
        return frozenset((storage_key(self.matrices), storage_key(self.vectors)))

    def zero_gradients(self) -> None:
        self.matrix_gradients.zero_()
        self.vector_gradients.zero_()


def _buffers(
    elements: int, replicas: int, device: torch.device, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    size = -(-elements // replicas) * replicas
    precision = torch.float64 if dtype == torch.float64 else torch.float32
    flat = torch.empty(size, device=device, dtype=dtype)
    flat[elements:].zero_()
    return flat, torch.zeros(size, device=device, dtype=precision)
