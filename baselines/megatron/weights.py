"""Canonical weights (`sppo.plan.weights.weight_shapes`) as the shards of one Megatron rank.

Two of Megatron's matrices join canonical ones. `linear_qkv` has, for each KV head, its query heads,
the key head and the value head. `linear_fc1` of a SwiGLU has the gate rows, then the up rows.
TransformerEngine's layer spec has the norms inside these two: `linear_qkv.layer_norm_weight`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from baselines.protocol import Weights
from sppo.config.models import Model

_OUTSIDE = {
    "embedding.word_embeddings.weight": "embedding.weight",
    "decoder.final_layernorm.weight": "final_norm.weight",
    "decoder.final_layernorm.bias": "final_norm.bias",
    "output_layer.weight": "head.weight",
}
_ONE_TO_ONE = {
    "input_layernorm": "norm1",
    "pre_mlp_layernorm": "norm2",
    "self_attention.linear_proj": "attention.output",
    "mlp.linear_fc2": "mlp.down",
}
_NORM_INSIDE = {"self_attention.linear_qkv": "norm1", "mlp.linear_fc1": "norm2"}
_NORM_KIND = "layer_norm_"
_SPLIT_BY_COLUMNS = ("self_attention.linear_proj.weight", "mlp.linear_fc2.weight")
_SPLIT_BY_ROWS = ("embedding.word_embeddings.weight", "output_layer.weight")


@dataclass(frozen=True, kw_only=True)
class RankShard:
    """The shard of one model chunk: its tensor-parallel rank, and the chunk's first layer."""

    tensor_rank: int
    tensor_parallel: int
    first_layer: int

    def shard(self, tensor: Tensor, axis: int = 0) -> Tensor:
        return tensor.chunk(self.tensor_parallel, dim=axis)[self.tensor_rank]


@torch.no_grad()
def load_weights(network: nn.Module, weights: Weights, model: Model, rank_shard: RankShard) -> None:
    """Copy this rank's shards into a GPTModel of the local or TransformerEngine's spec."""
    for name, parameter in network.named_parameters():
        value = shard_of(name, weights, model, rank_shard)
        assert value.shape == parameter.shape, (
            f"{name}: {tuple(value.shape)} is not {tuple(parameter.shape)}"
        )
        parameter.copy_(value)


def shard_of(name: str, weights: Weights, model: Model, rank_shard: RankShard) -> Tensor:
    """This rank's value of the Megatron parameter `name`."""
    if name in _OUTSIDE:
        whole = weights[_OUTSIDE[name]]
        return rank_shard.shard(whole) if name in _SPLIT_BY_ROWS else whole
    index, inner = name.removeprefix("decoder.layers.").split(".", 1)
    layer = f"layers.{rank_shard.first_layer + int(index)}"
    module, kind = inner.rsplit(".", 1)
    if kind.startswith(_NORM_KIND):
        return weights[f"{layer}.{_NORM_INSIDE[module]}.{kind.removeprefix(_NORM_KIND)}"]
    if module == "self_attention.linear_qkv":
        return rank_shard.shard(_joined_attention(weights, f"{layer}.attention", kind, model))
    if module == "mlp.linear_fc1":
        return _joined_mlp(weights, f"{layer}.mlp", kind, model, rank_shard)
    whole = weights[f"{layer}.{_ONE_TO_ONE[module]}.{kind}"]
    return rank_shard.shard(whole, axis=1) if inner in _SPLIT_BY_COLUMNS else whole


def _joined_attention(weights: Weights, prefix: str, kind: str, model: Model) -> Tensor:
    wholes = [weights[f"{prefix}.{name}.{kind}"] for name in ("query", "key", "value")]
    by_kv_head = [whole.unflatten(0, (model.kv_heads, -1)) for whole in wholes]
    return torch.cat(by_kv_head, dim=1).flatten(0, 1)


def _joined_mlp(
    weights: Weights, prefix: str, kind: str, model: Model, rank_shard: RankShard
) -> Tensor:
    up = rank_shard.shard(weights[f"{prefix}.up.{kind}"])
    if model.activation != "swiglu":
        return up
    return torch.cat((rank_shard.shard(weights[f"{prefix}.gate.{kind}"]), up))
