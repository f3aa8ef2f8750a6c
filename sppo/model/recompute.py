"""Makes dropped units again in the backward, by the very operations that made them first."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from sppo.comm.collectives import Team, in_order
from sppo.config.models import Model
from sppo.model.layers import linear, rms_norm, row_linear
from sppo.model.mixers.kv_cache import Cache
from sppo.model.mixers.prefix_attention import attend_cache, rotate_into
from sppo.model.weights import Weight, Weights
from sppo.plan.blocks import block_of

Read = Callable[[str], Tensor]
"""A unit of the same block by name, itself made again if it was dropped."""


@dataclass(frozen=True, kw_only=True)
class BlockRecomputer:
    """The blocks `layers` of one part, for the subsequence whose first position is `start`.

    turns: complex [l, D / 2], the subsequence's rows of the rotary table.
    """

    model: Model
    layers: range
    weights: Weights
    team: Team
    cache: Cache
    turns: Tensor
    start: int

    def recomputed_from(self, unit: str) -> tuple[str, ...]:
        return block_of(self.model).saved_tensors_by_name[unit].recomputed_from

    def make(self, layer: int, unit: str, read: Read) -> Tensor:
        """The unit of the part's block `layer`, contiguous, as the forward had made it."""
        name = f"layers.{self.layers[layer]}"
        match unit:
            case "norm1.output":
                return self._norm(f"{name}.norm1", read("block.input"))
            case "norm2.output":
                return self._norm(f"{name}.norm2", read("block.middle"))
            case "attention.query":
                return self._query(name, read("norm1.output"))
            case "attention.output":
                cache = self.cache.layers[layer]
                return attend_cache(read("attention.query"), cache, self.start, self.team.size)[0]
            case "block.middle":
                parameters = self._parameters(f"{name}.attention.output")
                attended = row_linear(read("attention.output"), self.team, *parameters)
                return attended.add_(read("block.input"))
            case "mlp.up" | "mlp.gate":
                gathered = self.team.all_gather(read("norm2.output")).wait()
                return linear(gathered, *self._parameters(f"{name}.{unit}"))
            case "mlp.activation" if self.model.activation == "swiglu":
                return F.silu(read("mlp.gate")).mul_(read("mlp.up"))
            case "mlp.activation":
                return F.gelu(read("mlp.up"))
        raise AssertionError(f"no recipe for {unit}")

    def _parameters(self, name: str) -> tuple[Weight, Weight | None]:
        return self.weights[f"{name}.weight"], self.weights.get(f"{name}.bias")

    def _norm(self, name: str, x: Tensor) -> Tensor:
        weight = self.weights[f"{name}.weight"].value
        epsilon = self.model.norm_epsilon
        if self.model.norm == "rmsnorm":
            return rms_norm(x, weight, epsilon)[0]
        bias = self.weights[f"{name}.bias"].value
        out: Tensor = torch.native_layer_norm(x, [x.shape[-1]], weight, bias, epsilon)[0]
        return out

    def _query(self, layer: str, normed: Tensor) -> Tensor:
        """Only the query rows of the joint matrix: K and V are still in their buffers."""
        weight, bias = self._parameters(f"{layer}.attention.qkv")
        rows = slice(0, self.model.hidden // self.team.size)
        gathered = self.team.all_gather(normed).wait()
        flat = F.linear(gathered, weight.value[rows], None if bias is None else bias.value[rows])
        by_token = in_order(flat, self.team.size).view(flat.shape[0], -1, self.model.head_width)
        query = by_token.transpose(0, 1)
        return rotate_into(query, self.turns, query.new_empty(query.shape))
