"""Decoder blocks (GPT of the paper; Llama) of one model chunk, with one rank's weight shards."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from sppo.comm.stage_ranks import StageRanks
from sppo.config.models import Model
from sppo.kernels import fused
from sppo.model.layers import ColumnLinear, LayerNorm, RmsNorm, RowLinear, StageInput, SwiGlu, Tag
from sppo.model.loss import TiledLoss, own_rows
from sppo.model.mixers.layer_cache import LayerCache
from sppo.model.mixers.prefix_attention import PrefixAttention
from sppo.model.weights import Weights, accumulation_dtype
from sppo.offload.activation_store import ActivationStore


def rotary_turns(model: Model, tokens: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """RoPE's rotation of every position, complex [S, D / 2].

    The field's convention rotates column j of a head with column j + D / 2. Here the two lie side
    by side, as one complex number, because the rows of the query and key weights do (`pair_rows`).
    Scores do not depend on the order of columns, and RoPE becomes a single product.
    """
    precision = accumulation_dtype(dtype)
    exponents = torch.arange(0, model.head_width, 2, device=device, dtype=precision)
    frequencies = 1.0 / model.rope_theta ** (exponents / model.head_width)
    positions = torch.arange(tokens, device=device, dtype=precision)
    angles = torch.outer(positions, frequencies)
    return torch.polar(torch.ones_like(angles), angles)


@dataclass(frozen=True, kw_only=True)
class Trace:
    """The results of a forward for its backward: saved tensors, and later the input's gradient."""

    store: ActivationStore
    input_gradients: list[Tensor] = field(default_factory=list)


class PartModel:
    """Consecutive blocks `layers` of the model, after the embedding and before the head, if any.

    Inputs are of one subsequence of l tokens; the pipeline takes the place of a batch axis. Between
    blocks a rank has hidden states [l / SP, h] of the tokens dealt to it (see `collectives.py`).
    Inside a block it has its own heads of all tokens, and its own MLP columns of the tokens of the
    ranks that divide the weights.
    """

    def __init__(self, model: Model, layers: range, weights: Weights, ranks: StageRanks) -> None:
        self.model = model
        self.layers = layers
        self.weights = weights
        self.ranks = ranks
        self.team = ranks.shards
        self.first = 0 in layers
        self._entry = torch.zeros((), device=weights.device, requires_grad=True)

    def _column(self, x: Tensor, *names: str) -> Any:
        weights = tuple(self.weights.with_bias(name) for name in names)
        return ColumnLinear.apply(x, self.team, weights)

    def _row(self, x: Tensor, name: str, residual: Tensor) -> Tensor:
        weight, bias = self.weights.with_bias(name)
        if fused.switch.on and bias is not None:
            whole: Tensor = RowLinear.apply(x, self.team, weight, bias, residual)
            return whole
        out: Tensor = RowLinear.apply(x, self.team, weight, bias, None)
        return out.add_(residual)

    def norm(self, name: str, x: Tensor, tag: Tag) -> Tensor:
        """The norm `name` of x [l / SP, h]; its statistics are tagged "norm1.statistics"."""
        tag_statistic = partial(tag, f"{name.rpartition('.')[2]}.statistics")
        function = RmsNorm if self.model.norm == "rmsnorm" else LayerNorm
        parameters = self.weights.with_bias(name)
        out: Tensor = function.apply(x, *parameters, self.model.norm_epsilon, tag_statistic)
        return out

    def _block(
        self, index: int, cache: LayerCache, turns: Tensor, start: int, trace: Trace, x: Tensor
    ) -> Tensor:
        layer = f"layers.{self.layers[index]}"
        tag = partial(trace.store.tag, index)
        tag("block.input", x)
        normed = self.norm(f"{layer}.norm1", x, tag)
        tag("norm1.output", normed)
        attended: Tensor = PrefixAttention.apply(
            self._column(normed, f"{layer}.attention.qkv"), turns, cache, start, self.ranks, tag
        )
        middle = self._row(attended, f"{layer}.attention.output", x)
        tag("block.middle", middle)
        normed = self.norm(f"{layer}.norm2", middle, tag)
        tag("norm2.output", normed)
        active = self._activation(layer, normed, tag)
        return self._row(active, f"{layer}.mlp.down", middle)

    def _activation(self, layer: str, normed: Tensor, tag: Tag) -> Tensor:
        if self.model.activation == "swiglu":
            up, gate = self._column(normed, f"{layer}.mlp.up", f"{layer}.mlp.gate")
            tag("mlp.up", up)
            tag("mlp.gate", gate)
            active: Tensor = SwiGlu.apply(gate, up)
        else:
            up = self._column(normed, f"{layer}.mlp.up")
            tag("mlp.up", up)
            active = F.gelu(up)
        tag("mlp.activation", active)
        return active

    def forward(
        self, x: Tensor, caches: Sequence[LayerCache], turns: Tensor, start: int, trace: Trace
    ) -> Tensor:
        """Hidden states [l / SP, h] of positions from `start` -> the output of the last block.

        turns: complex [l, D / 2], the rotations of these positions.
        """
        x = StageInput.apply(self._entry, x, trace.input_gradients)
        layers = self.layers[: len(caches)]
        for index, cache in enumerate(caches):
            block = partial(self._block, index, cache, turns, start, trace)
            if self.weights.blocks is None:
                x = block(x)
            else:
                x = self.weights.blocks.around(block, x, layers[index], layers)
        return x

    def embed(self, tokens: Tensor) -> Tensor:
        """Token ids [l] to hidden states [l / SP, h]; outside the graph, see `embed_backward`."""
        table = self.weights["embedding.weight"].value
        with torch.no_grad():
            tokens = self.ranks.own_part(tokens)
            if self.team.size == 1:
                return F.embedding(tokens, table)
            rows, is_own = self._rows(tokens, table)
            return self.team.reduce_scatter(F.embedding(rows, table).mul_(is_own)).wait()

    def _rows(self, tokens: Tensor, table: Tensor) -> tuple[Tensor, Tensor]:
        """Row of every token [n] in this rank's table; 1 [n, 1] where it is there."""
        rows, is_own = own_rows(tokens, table.shape[0], self.team)
        return rows, is_own.unsqueeze(-1).to(table.dtype)

    def embed_backward(self, tokens: Tensor, grad: Tensor) -> None:
        """Adds the gradient [l / SP, h] of the hidden states to that of the table."""
        weight = self.weights["embedding.weight"]
        tokens = self.ranks.own_part(tokens)
        if self.team.size > 1:
            tokens, is_own = self._rows(tokens, weight.value)
            grad = self.team.all_gather(grad).wait().mul_(is_own)
        weight.gradient.index_add_(0, tokens, grad.to(weight.gradient.dtype))

    def loss(self, x: Tensor, targets: Tensor, scale: float, trace: Trace) -> Tensor:
        """This rank's part of scale * sum of cross entropies, a scalar.

        x: hidden states [l / SP, h]; targets: int64 [l].
        """
        tag = partial(trace.store.tag, len(self.layers))
        tag("final_norm.input", x)
        total: Tensor = TiledLoss.apply(
            self.norm("final_norm", x, tag),
            self.weights["head.weight"],
            targets,
            scale,
            self.ranks,
            tag,
        )
        return total
