"""The weights of one rank's stage: its shard of every matrix, in flat buffers with their gradients.

Parameters are views of two flat buffers, matrices and vectors. Gradients are of two more. So a step
has one AdamW call, one norm, one zero and one reduction over replicas. Sharded blocks have buffers
of their own (`block_shards.py`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sppo.comm.collectives import Team
from sppo.config.models import Model
from sppo.model.block_shards import BlockShards, Load
from sppo.offload.activation_store import storage_key
from sppo.plan.blocks import block_of
from sppo.plan.plan import Plan
from sppo.plan.weights import canonical_weights, padded


@dataclass(frozen=True)
class Weight:
    """A parameter and its gradient: float32, or float64 where the parameter is."""

    value: Tensor
    gradient: Tensor


def accumulation_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype of gradients and sums: float32, or float64 for a float64 model."""
    return torch.float64 if dtype == torch.float64 else torch.float32


class Weights(dict[str, Weight]):
    """Parameters by name. blocks: their owner, where those of blocks are gathered when used."""

    blocks: BlockShards | None = None

    @property
    def device(self) -> torch.device:
        return next(iter(self.values())).value.device

    def with_bias(self, name: str) -> tuple[Weight, Weight | None]:
        """Weight and bias of a projection or norm; None where it has no bias."""
        return self[f"{name}.weight"], self.get(f"{name}.bias")

    def storage_keys(self) -> frozenset[int]:
        """Storages of the parameters: autograd may save these, and they outlive the step."""
        return frozenset(storage_key(weight.value) for weight in self.values())


def weight_views(
    shapes: Mapping[str, tuple[int, ...]], values: Tensor, gradients: Tensor
) -> Iterator[tuple[str, Weight]]:
    """Parameters of these shapes, one after another in two flat buffers [elements]."""
    start = 0
    for name, shape in shapes.items():
        span = slice(start, start + math.prod(shape))
        start = span.stop
        yield name, Weight(values[span].view(shape), gradients[span].view(shape))


def count_elements(shapes: Mapping[str, tuple[int, ...]]) -> int:
    return sum(math.prod(shape) for shape in shapes.values())


def stage_weight_names(
    model: Model, layers: Sequence[int], head: bool
) -> dict[str, tuple[str, ...]]:
    """Parameter of this stage -> the canonical weights it is the row-wise concatenation of.

    Weights of a block that are stored together become one matrix: one product instead of many.
    """
    names: dict[str, tuple[str, ...]] = {}
    if 0 in layers:
        names["embedding.weight"] = ("embedding.weight",)
    for layer in layers:
        prefix = f"layers.{layer}."
        for name, parts in block_of(model).stored_weights.items():
            names[prefix + name] = tuple(prefix + part for part in parts)
    if head:
        last = ("final_norm.weight", "final_norm.bias", "head.weight")
        names |= {name: (name,) for name in last if name in canonical_weights(model)}
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
    model: Model, weights: Mapping[str, Tensor], parts: tuple[str, ...], shards: Team
) -> Tensor:
    """One rank's shard of a stage's parameter from its canonical parts.

    The parts are concatenated; rows that rotate together are paired.
    """
    canonical = canonical_weights(model)
    paired = block_of(model).paired_weights
    values = []
    for part in parts:
        value, axis = weights[part], canonical[part].sharded_axis
        if axis is not None:
            value = value.chunk(shards.size, axis)[shards.index]
        if part.rpartition(".")[0].endswith(paired):
            value = pair_rows(value, model.head_width)
        values.append(value)
    return torch.cat(values)


class StageWeights(Weights):
    """The parameters of one rank's stage with their gradients, in flat buffers.

    weights: canonical and full-size, copied. shards: the ranks that divide the weights. copies: the
    ranks with the same weights.

    `matrices` have weight decay, `vectors` have none; gradients are of `accumulation_dtype`. The
    first `whole_elements` of the vectors are the same on every shard; their gradients are parts of
    a sum. Buffers are padded with zeros to a multiple of the copies of the weights, so that ZeRO-1
    can divide them. Where the plan shards the weights, those of blocks are in `blocks`, and
    `matrices` are the embedding and the head.
    """

    def __init__(
        self,
        plan: Plan,
        stage: int,
        weights: Mapping[str, Tensor],
        device: torch.device,
        dtype: torch.dtype,
        shards: Team,
        copies: Team | None = None,
    ) -> None:
        super().__init__()
        model = plan.model
        layers, head = plan.stages[stage].layers, plan.stages[stage].head
        sources = stage_weight_names(model, layers, head)
        shapes = stage_weight_shapes(model, layers, head, shards.size)
        canonical = canonical_weights(model)
        whole = {name for name in sources if canonical[sources[name][0]].sharded_axis is None}
        self.whole_elements = sum(math.prod(shapes[name]) for name in whole)
        names = sorted(sources, key=lambda name: name not in whole)
        matrices = {name: shapes[name] for name in names if len(shapes[name]) == 2}
        vectors = {name: shapes[name] for name in names if len(shapes[name]) == 1}

        def load(name: str) -> Tensor:
            return stage_value(model, weights, sources[name], shards)

        if plan.sharded_weights:
            assert copies is not None
            self.blocks = _block_shards(layers, matrices, copies, device, dtype, load)
            for layer in layers:
                for name, value, gradient in self.blocks.views(layer):
                    self[f"layers.{layer}.{name}"] = Weight(value, gradient)
            matrices = {name: shape for name, shape in matrices.items() if name not in self}
        ranks = plan.weight_copies
        self.matrices, self.matrix_gradients = _buffers(matrices, ranks, device, dtype)
        self.vectors, self.vector_gradients = _buffers(vectors, ranks, device, dtype)
        for shapes_of, *flat in (
            (matrices, self.matrices, self.matrix_gradients),
            (vectors, self.vectors, self.vector_gradients),
        ):
            self.update(weight_views(shapes_of, *flat))
            for name in shapes_of:
                self[name].value.copy_(load(name))

    def zero_gradients(self) -> None:
        self.matrix_gradients.zero_()
        self.vector_gradients.zero_()
        if self.blocks is not None:
            self.blocks.piece_gradients.zero_()

    def tensors(self) -> dict[str, list[Tensor]]:
        """All buffers by kind, for the accounting."""
        weights = [self.matrices, self.vectors]
        gradients = [self.matrix_gradients, self.vector_gradients]
        if self.blocks is not None:
            weights += [self.blocks.pieces, self.blocks.values]
            gradients += [self.blocks.piece_gradients, self.blocks.gradients]
        return {"weights": weights, "gradients": gradients}


def _block_shards(
    layers: Sequence[int],
    matrices: Mapping[str, tuple[int, ...]],
    copies: Team,
    device: torch.device,
    dtype: torch.dtype,
    load: Load,
) -> BlockShards:
    """The pieces of all layers, set. matrices: shapes by the name of the parameter."""
    first = f"layers.{layers[0]}."
    shapes = {
        name.removeprefix(first): shape
        for name, shape in matrices.items()
        if name.startswith(first)
    }
    blocks = BlockShards(layers, shapes, copies, device, dtype, accumulation_dtype(dtype))
    for layer in layers:
        blocks.load(layer, load)
    return blocks


def _buffers(
    shapes: Mapping[str, tuple[int, ...]], copies: int, device: torch.device, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Flat values, of which only the padding is set, and flat gradients, which are zero."""
    elements = count_elements(shapes)
    size = padded(elements, copies)
    flat = torch.empty(size, device=device, dtype=dtype)
    flat[elements:].zero_()
    return flat, torch.zeros(size, device=device, dtype=accumulation_dtype(dtype))
