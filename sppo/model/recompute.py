"""Recomputes saved tensors in the backward, by the operations of the forward."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from sppo.comm.collectives import in_order
from sppo.model.decoder import PartModel
from sppo.model.layers import linear, row_linear
from sppo.model.mixers.layer_cache import LayerCache
from sppo.model.mixers.prefix_attention import attend_prefix
from sppo.model.mixers.rotary import rotate_into
from sppo.plan.blocks import block_of

Read = Callable[[str], Tensor]
"""A saved tensor of the same block by name, itself recomputed if it was dropped."""


def _untagged(name: str, tensor: Tensor) -> None:
    """A recomputed norm saves nothing."""


@dataclass(frozen=True, kw_only=True)
class BlockRecomputer:
    """The blocks of one model chunk, for the subsequence whose first position is `start`.

    turns: complex [l, D / 2], the subsequence's rows of the rotary table.
    """

    part: PartModel
    caches: Sequence[LayerCache]
    turns: Tensor
    start: int

    def recomputed_from(self, name: str) -> tuple[str, ...]:
        return block_of(self.part.model).saved_tensors_by_name[name].recomputed_from

    def recompute(self, layer: int, name: str, read: Read) -> Tensor:
        """The saved tensor of the chunk's block `layer`, contiguous, as the forward computed it."""
        block, team = f"layers.{self.part.layers[layer]}", self.part.team
        weights = self.part.weights
        match name:
            case "norm1.output":
                return self.part.norm(f"{block}.norm1", read("block.input"), _untagged)
            case "norm2.output":
                return self.part.norm(f"{block}.norm2", read("block.middle"), _untagged)
            case "attention.query":
                return self._query(block, read("norm1.output"))
            case "attention.output":
                cache, query = self.caches[layer], read("attention.query")
                own = cache.own(self.start, query.shape[1])
                return attend_prefix(query, own, cache, self.start, self.part.ranks)[0]
            case "block.middle":
                output = weights.with_bias(f"{block}.attention.output")
                attended = row_linear(read("attention.output"), team, *output)
                return attended.add_(read("block.input"))
            case "mlp.up" | "mlp.gate":
                gathered = team.all_gather(read("norm2.output")).wait()
                return linear(gathered, *weights.with_bias(f"{block}.{name}"))
            case "mlp.activation" if self.part.model.activation == "swiglu":
                return F.silu(read("mlp.gate")).mul_(read("mlp.up"))
            case "mlp.activation":
                return F.gelu(read("mlp.up"))
        raise AssertionError(f"no recipe for {name}")

    def _query(self, block: str, normed: Tensor) -> Tensor:
        """Only the query rows of the joint matrix: K and V are still in their buffers."""
        model, team, ranks = self.part.model, self.part.team, self.part.ranks
        weight, bias = self.part.weights.with_bias(f"{block}.attention.qkv")
        rows = slice(0, model.hidden // team.size)
        gathered = team.all_gather(normed).wait()
        flat = F.linear(gathered, weight.value[rows], None if bias is None else bias.value[rows])
        flat = ranks.exchange_for_heads(flat, [flat.shape[1]])
        by_token = in_order(flat, ranks.head_ranks).view(flat.shape[0], -1, model.head_width)
        query = by_token.transpose(0, 1)
        turns = ranks.own_positions(self.turns)
        return rotate_into(query, turns, query.new_empty(query.shape))
