"""Canonical weights (`sppo.plan.weights.weight_shapes`) as the shards of one Megatron rank.

Two of Megatron's matrices join several of ours: `linear_qkv` holds, for each KV head, its query
heads, the key head and the value head; `linear_fc1` of a SwiGLU holds the gate, then the up rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

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
_SPLIT_BY_COLUMNS = ("self_attention.linear_proj.weight", "mlp.linear_fc2.weight")
_SPLIT_BY_ROWS = ("embedding.word_embeddings.weight", "output_layer.weight")


@dataclass(frozen=True, kw_only=True)
class Place:
    """Which part of the model a rank holds: its tensor-parallel shard and its first layer."""

    tensor_rank: int
    tensor_parallel: int
    first_layer: int

    def shard(self, tensor: Tensor, axis: int = 0) -> Tensor:
        return tensor.chunk(self.tensor_parallel, dim=axis)[self.tensor_rank]


@torch.no_grad()
def load_weights(
    network: nn.Module, weights: Mapping[str, Tensor], model: Model, place: Place
) -> None:
    """Copy this rank's shards into a GPTModel of the local layer spec."""
    for name, parameter in network.named_parameters():
        value = shard_of(name, weights, model, place)
        assert value.shape == parameter.shape, (
            f"{name}: {tuple(value.shape)} is not {tuple(parameter.shape)}"
        )
        parameter.copy_(value)


def shard_of(name: str, weights: Mapping[str, Tensor], model: Model, place: Place) -> Tensor:
    """This rank's value of the Megatron parameter `name`."""
    if name in _OUTSIDE:
        whole = weights[_OUTSIDE[name]]
        return place.shard(whole) if name in _SPLIT_BY_ROWS else whole
    index, inner = name.removeprefix("decoder.layers.").split(".", 1)
    layer = f"layers.{place.first_layer + int(index)}"
    module, kind = inner.rsplit(".", 1)
    if module == "self_attention.linear_qkv":
        return place.shard(_joined_attention(weights, f"{layer}.attention", kind, model))
    if module == "mlp.linear_fc1":
        return _joined_mlp(weights, f"{layer}.mlp", kind, model, place)
    whole = weights[f"{layer}.{_ONE_TO_ONE[module]}.{kind}"]
    return place.shard(whole, axis=1) if inner in _SPLIT_BY_COLUMNS else whole


def _joined_attention(
    weights: Mapping[str, Tensor], prefix: str, kind: str, model: Model
) -> Tensor:
    parts = []
    for part in ("query", "key", "value"):
        whole = weights[f"{prefix}.{part}.{kind}"]
        parts.append(whole.view(model.kv_heads, -1, *whole.shape[1:]))
    return torch.cat(parts, dim=1).flatten(0, 1)


def _joined_mlp(
    weights: Mapping[str, Tensor], prefix: str, kind: str, model: Model, place: Place
) -> Tensor:
    up = place.shard(weights[f"{prefix}.up.{kind}"])
    if model.activation != "swiglu":
        return up
    return torch.cat((place.shard(weights[f"{prefix}.gate.{kind}"]), up))
