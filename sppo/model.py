"""Decoder blocks (GPT of the paper; Llama) of one stage, and the weights they stand on.

A stage's parameters are views of two flat buffers, matrices and vectors, and their gradients of
two more: one AdamW call, one norm, one zero.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from sppo.activations import ActivationStore, storage_key
from sppo.kvcache import Cache
from sppo.layers import (
    LayerNorm,
    Linear,
    PrefixAttention,
    RmsNorm,
    StageInput,
    SwiGlu,
    Tag,
    TiledLoss,
    Weight,
)
from sppo.memory import LOSS_TILE_TOKENS
from sppo.workload import Model, layer_weight_shapes, weight_shapes


def stage_weight_names(
    model: Model, layers: Sequence[int], head: bool
) -> dict[str, tuple[str, ...]]:
    """Parameter of this stage -> the canonical weights it is the row-wise concatenation of.

    Query, key and value become one matrix: one product instead of three.
    """
    names: dict[str, tuple[str, ...]] = {}
    if 0 in layers:
        names["embedding.weight"] = ("embedding.weight",)
    for layer in layers:
        for name in layer_weight_shapes(model):
            prefix = f"layers.{layer}."
            if name.startswith("attention.query."):
                kind = name.rsplit(".", 1)[1]
                parts = ("query", "key", "value")
                names[f"{prefix}attention.qkv.{kind}"] = tuple(
                    f"{prefix}attention.{part}.{kind}" for part in parts
                )
            elif not name.startswith(("attention.key.", "attention.value.")):
                names[prefix + name] = (prefix + name,)
    if head:
        names["final_norm.weight"] = ("final_norm.weight",)
        if model.norm == "layernorm":
            names["final_norm.bias"] = ("final_norm.bias",)
        names["head.weight"] = ("head.weight",)
    return names


def stage_weight_shapes(
    model: Model, layers: Sequence[int], head: bool
) -> dict[str, tuple[int, ...]]:
    """Parameter of these layers -> its shape."""
    known = weight_shapes(model)
    return {
        name: (sum(known[part][0] for part in parts), *known[parts[0]][1:])
        for name, parts in stage_weight_names(model, layers, head).items()
    }


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
    """The parameters of one stage with their gradients, in flat buffers.

    `matrices` carry weight decay, `vectors` do not; `matrix_gradients` and `vector_gradients` are
    float32 (float64 for a float64 model).
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
    ) -> None:
        sources = stage_weight_names(model, layers, head)
        shapes = stage_weight_shapes(model, layers, head)
        self.matrices, self.matrix_gradients = self._buffers(
            [shape for shape in shapes.values() if len(shape) > 1], device, dtype
        )
        self.vectors, self.vector_gradients = self._buffers(
            [shape for shape in shapes.values() if len(shape) == 1], device, dtype
        )
        self._weights: dict[str, Weight] = {}
        used = {1: 0, 2: 0}
        for name, parts in sources.items():
            shape = shapes[name]
            axes = len(shape)
            flat = self.matrices if axes == 2 else self.vectors
            gradients = self.matrix_gradients if axes == 2 else self.vector_gradients
            span = slice(used[axes], used[axes] + math.prod(shape))
            used[axes] = span.stop
            flat[span].view(shape).copy_(stage_value(weights, parts, model.head_width))
            self._weights[name] = Weight(flat[span].view(shape), gradients[span].view(shape))

    @staticmethod
    def _buffers(
        shapes: list[tuple[int, ...]], device: torch.device, dtype: torch.dtype
    ) -> tuple[Tensor, Tensor]:
        size = sum(math.prod(shape) for shape in shapes)
        precision = torch.float64 if dtype == torch.float64 else torch.float32
        flat = torch.empty(size, device=device, dtype=dtype)
        return flat, torch.zeros(size, device=device, dtype=precision)

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


class RotaryTable:
    """The turn of every position, complex [S, D / 2], made once.

    The field's convention turns column j of a head with column j + D / 2. Here the two lie side by
    side, as one complex number, because the rows of the query and key weights do (`pair_rows`):
    scores do not depend on the order of columns, and RoPE becomes a single product.
    """

    def __init__(self, model: Model, tokens: int, device: torch.device, dtype: torch.dtype) -> None:
        precision = torch.float64 if dtype == torch.float64 else torch.float32
        exponents = torch.arange(0, model.head_width, 2, device=device, dtype=precision)
        frequencies = 1.0 / model.rope_theta ** (exponents / model.head_width)
        positions = torch.arange(tokens, device=device, dtype=precision)
        angles = torch.outer(positions, frequencies)
        self.turns = torch.polar(torch.ones_like(angles), angles)


def pair_rows(rows: Tensor, head_width: int) -> Tensor:
    """Rows j and j + D / 2 of every head of a query or key weight (or bias), side by side."""
    halves: Tensor = rows.unflatten(0, (-1, 2, head_width // 2))
    return halves.transpose(1, 2).flatten(0, 2)


def stage_value(weights: Mapping[str, Tensor], parts: tuple[str, ...], head_width: int) -> Tensor:
    """A stage's parameter from its canonical parts: concatenated, query and key rows paired."""
    values = [
        pair_rows(weights[part], head_width)
        if ".attention.query." in part or ".attention.key." in part
        else weights[part]
        for part in parts
    ]
    return torch.cat(values)


@dataclass(frozen=True, kw_only=True)
class Trace:
    """What a forward leaves for its backward: saved tensors, and the input's gradient."""

    store: ActivationStore
    input_gradients: list[Tensor] = field(default_factory=list)


class PartModel:
    """Consecutive blocks `layers` of the model, with the embedding in front and the head behind.

    Everything is [l, ...] for one subsequence of one sequence; the batch axis is the pipeline.
    """

    def __init__(self, model: Model, layers: range, weights: Weights) -> None:
        self.model = model
        self.layers = layers
        self.weights = weights
        self.first = 0 in layers
        self._entry = torch.zeros((), device=weights.device, requires_grad=True)

    def _linear(self, name: str, x: Tensor) -> Tensor:
        weight, bias = self.weights[f"{name}.weight"], self.weights.get(f"{name}.bias")
        out: Tensor = Linear.apply(x, weight, bias)
        return out

    def _norm(self, name: str, unit: str, x: Tensor, tag: Tag) -> Tensor:
        def tag_statistic(_: str, tensor: Tensor) -> None:
            tag(f"{unit}.statistics", tensor)

        weight = self.weights[f"{name}.weight"]
        epsilon = self.model.norm_epsilon
        if self.model.norm == "rmsnorm":
            out: Tensor = RmsNorm.apply(x, weight, epsilon, tag_statistic)
        else:
            bias = self.weights[f"{name}.bias"]
            out = LayerNorm.apply(x, weight, bias, epsilon, tag_statistic)
        return out

    def _block(
        self, index: int, x: Tensor, cache: Cache, rotary: RotaryTable, start: int, trace: Trace
    ) -> Tensor:
        layer = f"layers.{self.layers[index]}"

        def tag(unit: str, tensor: Tensor) -> None:
            trace.store.tag(index, unit, tensor)

        span = slice(start, start + x.shape[0])
        tag("block.input", x)
        normed = self._norm(f"{layer}.norm1", "norm1", x, tag)
        tag("norm1.output", normed)
        attended: Tensor = PrefixAttention.apply(
            self._linear(f"{layer}.attention.qkv", normed),
            rotary.turns[span],
            cache.layers[index],
            start,
            tag,
        )
        middle = self._linear(f"{layer}.attention.output", attended).add_(x)
        tag("block.middle", middle)
        normed = self._norm(f"{layer}.norm2", "norm2", middle, tag)
        tag("norm2.output", normed)
        active = self._activation(layer, normed, tag)
        return self._linear(f"{layer}.mlp.down", active).add_(middle)

    def _activation(self, layer: str, normed: Tensor, tag: Tag) -> Tensor:
        up = self._linear(f"{layer}.mlp.up", normed)
        tag("mlp.up", up)
        if self.model.activation == "swiglu":
            gate = self._linear(f"{layer}.mlp.gate", normed)
            tag("mlp.gate", gate)
            active: Tensor = SwiGlu.apply(gate, up)
        else:
            active = F.gelu(up)
        tag("mlp.activation", active)
        return active

    def forward(
        self, x: Tensor, cache: Cache, rotary: RotaryTable, start: int, trace: Trace
    ) -> Tensor:
        """Hidden states [l, h] of positions `start` and on through the blocks."""
        x = StageInput.apply(self._entry, x, trace.input_gradients)
        for index in range(len(self.layers)):
            x = self._block(index, x, cache, rotary, start, trace)
        return x

    def embed(self, tokens: Tensor) -> Tensor:
        """Token ids [l] to hidden states [l, h]; outside the graph, see `embed_backward`."""
        with torch.no_grad():
            return F.embedding(tokens, self.weights["embedding.weight"].value)

    def embed_backward(self, tokens: Tensor, grad: Tensor) -> None:
        gradient = self.weights["embedding.weight"].gradient
        gradient.index_add_(0, tokens, grad.to(gradient.dtype))

    def loss(self, x: Tensor, targets: Tensor, scale: float, trace: Trace) -> Tensor:
        """scale * sum of cross entropies of hidden states [l, h] against targets [l]."""

        def tag(unit: str, tensor: Tensor) -> None:
            trace.store.tag(len(self.layers), unit, tensor)

        tag("final_norm.input", x)
        total: Tensor = TiledLoss.apply(
            self._norm("final_norm", "final_norm", x, tag),
            self.weights["head.weight"],
            targets,
            scale,
            LOSS_TILE_TOKENS,
            tag,
        )
        return total
