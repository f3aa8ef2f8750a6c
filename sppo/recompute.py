"""Makes dropped units again in the backward, by the very operations that made them first."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from sppo.kvcache import Cache
from sppo.layers import attend_cache, rms_norm, rotate_into
from sppo.model import Weights
from sppo.units import layer_units
from sppo.workload import Model

Read = Callable[[str], Tensor]
"""A unit of the same block by name, itself made again if it was dropped."""


@dataclass(frozen=True, kw_only=True)
class Remaker:
    """The blocks `layers` of one part, for the subsequence whose first position is `start`.

    turns: complex [l, D / 2], the subsequence's rows of the rotary table.
    """

    model: Model
    layers: range
    weights: Weights
    cache: Cache
    turns: Tensor
    start: int

    def made_from(self, unit: str) -> tuple[str, ...]:
        (found,) = (known for known in layer_units(self.model) if known.name == unit)
        return found.made_from

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
                return attend_cache(read("attention.query"), cache, self.start)[0]
            case "block.middle":
                attended = self._linear(f"{name}.attention.output", read("attention.output"))
                return attended.add_(read("block.input"))
            case "mlp.up" | "mlp.gate":
                return self._linear(f"{name}.{unit}", read("norm2.output"))
            case "mlp.activation" if self.model.activation == "swiglu":
                return F.silu(read("mlp.gate")).mul_(read("mlp.up"))
            case "mlp.activation":
                return F.gelu(read("mlp.up"))
        raise AssertionError(f"no recipe for {unit}")

    def _linear(self, name: str, x: Tensor) -> Tensor:
        bias = self.weights.get(f"{name}.bias")
        weight = self.weights[f"{name}.weight"]
        return F.linear(x, weight.value, None if bias is None else bias.value)

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
        name = f"{layer}.attention.qkv"
        bias = self.weights.get(f"{name}.bias")
        rows = slice(0, self.model.hidden)
        weight = self.weights[f"{name}.weight"].value[rows]
        flat = F.linear(normed, weight, None if bias is None else bias.value[rows])
        query = flat.view(normed.shape[0], -1, self.model.head_width).transpose(0, 1)
        return rotate_into(query, self.turns, query.new_empty(query.shape))
