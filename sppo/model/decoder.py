"""Decoder blocks (GPT of the paper; Llama) of one part, on one rank's shard of the weights."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from sppo.comm.collectives import Team, as_gathered
from sppo.config.models import Model
from sppo.model.layers import ColumnLinear, LayerNorm, RmsNorm, RowLinear, StageInput, SwiGlu, Tag
from sppo.model.loss import TiledLoss, own_rows
from sppo.model.mixers.kv_cache import Cache
from sppo.model.mixers.prefix_attention import PrefixAttention
from sppo.model.weights import Weight, Weights
from sppo.offload.activation_store import ActivationStore
from sppo.plan.saved_tensors import LOSS_TILE_TOKENS


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


@dataclass(frozen=True, kw_only=True)
class Trace:
    """What a forward leaves for its backward: saved tensors, and the input's gradient."""

    store: ActivationStore
    input_gradients: list[Tensor] = field(default_factory=list)


class PartModel:
    """Consecutive blocks `layers` of the model, with the embedding in front and the head behind.

    Everything is of one subsequence of l tokens; the batch axis is the pipeline. Between blocks a
    rank has hidden states [l / SP, h], the tokens that were dealt to it (see `team`); inside them
    its own heads and MLP columns of all tokens.
    """

    def __init__(self, model: Model, layers: range, weights: Weights, team: Team) -> None:
        self.model = model
        self.layers = layers
        self.weights = weights
        self.team = team
        self.first = 0 in layers
        self._entry = torch.zeros((), device=weights.device, requires_grad=True)

    def _parameters(self, name: str) -> tuple[Weight, Weight | None]:
        return self.weights[f"{name}.weight"], self.weights.get(f"{name}.bias")

    def _column(self, x: Tensor, *names: str) -> Any:
        return ColumnLinear.apply(x, self.team, tuple(self._parameters(name) for name in names))

    def _row(self, x: Tensor, name: str) -> Tensor:
        out: Tensor = RowLinear.apply(x, self.team, *self._parameters(name))
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

        span = slice(start, start + x.shape[0] * self.team.size)
        tag("block.input", x)
        normed = self._norm(f"{layer}.norm1", "norm1", x, tag)
        tag("norm1.output", normed)
        attended: Tensor = PrefixAttention.apply(
            self._column(normed, f"{layer}.attention.qkv"),
            rotary.turns[span],
            cache.layers[index],
            start,
            self.team,
            tag,
        )
        middle = self._row(attended, f"{layer}.attention.output").add_(x)
        tag("block.middle", middle)
        normed = self._norm(f"{layer}.norm2", "norm2", middle, tag)
        tag("norm2.output", normed)
        active = self._activation(layer, normed, tag)
        return self._row(active, f"{layer}.mlp.down").add_(middle)

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
        self, x: Tensor, cache: Cache, rotary: RotaryTable, start: int, trace: Trace
    ) -> Tensor:
        """Hidden states [l / SP, h] of positions `start` and on through the blocks."""
        x = StageInput.apply(self._entry, x, trace.input_gradients)
        for index in range(len(self.layers)):
            x = self._block(index, x, cache, rotary, start, trace)
        return x

    def embed(self, tokens: Tensor) -> Tensor:
        """Token ids [l] to hidden states [l / SP, h]; outside the graph, see `embed_backward`."""
        table = self.weights["embedding.weight"].value
        with torch.no_grad():
            if self.team.size == 1:
                return F.embedding(tokens, table)
            rows, mine = self._rows(tokens, table)
            return self.team.reduce_scatter(F.embedding(rows, table).mul_(mine)).wait()

    def _rows(self, tokens: Tensor, table: Tensor) -> tuple[Tensor, Tensor]:
        """Row of every token [l], as gathered, in this rank's table, and 1 [l, 1] where it is."""
        rows, mine = own_rows(as_gathered(tokens, self.team.size), table.shape[0], self.team)
        return rows, mine.unsqueeze(-1).to(table.dtype)

    def embed_backward(self, tokens: Tensor, grad: Tensor) -> None:
        """Adds the gradient [l / SP, h] of the hidden states to that of the table."""
        weight = self.weights["embedding.weight"]
        if self.team.size > 1:
            tokens, mine = self._rows(tokens, weight.value)
            grad = self.team.all_gather(grad).wait().mul_(mine)
        weight.gradient.index_add_(0, tokens, grad.to(weight.gradient.dtype))

    def loss(self, x: Tensor, targets: Tensor, scale: float, trace: Trace) -> Tensor:
        """This rank's part of scale * sum of cross entropies.

        x: hidden states [l / SP, h]; targets: all l of them.
        """

        def tag(unit: str, tensor: Tensor) -> None:
            trace.store.tag(len(self.layers), unit, tensor)

        tag("final_norm.input", x)
        total: Tensor = TiledLoss.apply(
            self._norm("final_norm", "final_norm", x, tag),
            self.weights["head.weight"],
            targets,
            scale,
            LOSS_TILE_TOKENS,
            self.team,
            tag,
        )
        return total
