"""The decoder that DeepSpeed trains: plain torch modules around its own Ulysses attention.

Modules own their parameters and are always called through `forward`, as ZeRO-3's hooks need.
Module names are the canonical weight names, but for `attention.qkv`: query, key and value are one
matrix, so that one product makes them and one rotation turns query and key.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from baselines.reference import rotary_tables, rotate
from sppo.config.models import Model
from sppo.plan.blocks import block_of

CoreAttention = Callable[..., Tensor]


@dataclass(frozen=True, kw_only=True)
class Shape:
    """What a rank's decoder is told besides the model: its place and the memory savers."""

    model: Model
    sequence_ranks: int
    sequence_rank: int
    checkpointed_layers: int
    mlp_tiles: int
    tiled_loss: bool
    loss_divisor: int


def local_attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Causal attention on [1, tokens, heads, head_width], with some heads and all tokens."""
    out = F.scaled_dot_product_attention(
        query.transpose(1, 2),
        key.transpose(1, 2),
        value.transpose(1, 2),
        is_causal=True,
        enable_gqa=query.shape[2] != key.shape[2],
    )
    return out.transpose(1, 2)


def even_tiles(tokens: int, tiles: int) -> int:
    """The number of pieces `torch.chunk(tokens, tiles)` really makes.

    DeepSpeed counts to the number it was told before it lets a gradient go: fewer pieces than
    that, and the gradient is never reduced.
    """
    return math.ceil(tokens / math.ceil(tokens / tiles))


def _norm(model: Model) -> nn.Module:
    if model.norm == "rmsnorm":
        return nn.RMSNorm(model.hidden, eps=model.norm_epsilon)
    return nn.LayerNorm(model.hidden, eps=model.norm_epsilon)


class Attention(nn.Module):
    def __init__(self, shape: Shape, core: CoreAttention) -> None:
        super().__init__()
        model = shape.model
        self.turning_and_value = [model.heads + model.kv_heads, model.kv_heads]
        self.query_and_key = [model.heads, model.kv_heads]
        self.head_width = model.head_width
        # ALST's rule: every rank needs a KV head of its own.
        self.kv_copies = max(1, shape.sequence_ranks // model.kv_heads)
        width = model.hidden + 2 * model.kv_width
        self.qkv = nn.Linear(model.hidden, width, bias=model.biases)
        self.output = nn.Linear(model.hidden, model.hidden, bias=model.biases)
        self.core = core

    def forward(self, x: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
        heads = self.qkv(x).unflatten(-1, (-1, self.head_width))
        turning, value = heads.split_with_sizes(self.turning_and_value, dim=2)
        turned = rotate(turning, cosines, sines)
        query, key = turned.split_with_sizes(self.query_and_key, dim=2)
        if self.kv_copies > 1:
            key = key.repeat_interleave(self.kv_copies, dim=2)
            value = value.repeat_interleave(self.kv_copies, dim=2)
        out: Tensor = self.output(self.core(query, key, value).flatten(2))
        return out


class Mlp(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        model = shape.model
        self.tiles = shape.mlp_tiles
        if model.activation == "swiglu":
            self.gate = nn.Linear(model.hidden, model.ffn, bias=model.biases)
        self.swiglu = model.activation == "swiglu"
        self.up = nn.Linear(model.hidden, model.ffn, bias=model.biases)
        self.down = nn.Linear(model.ffn, model.hidden, bias=model.biases)

    def whole(self, x: Tensor) -> Tensor:
        hidden = F.silu(self.gate(x)) * self.up(x) if self.swiglu else F.gelu(self.up(x))
        out: Tensor = self.down(hidden)
        return out

    def forward(self, x: Tensor) -> Tensor:
        if not self.tiles:
            return self.whole(x)
        from deepspeed.runtime.sequence_parallel.ulysses_sp import TiledMLP

        tiles = even_tiles(x.shape[1], self.tiles)
        out: Tensor = TiledMLP.apply(Mlp.whole, self, x, tiles, list(self.parameters()))
        return out


class Block(nn.Module):
    def __init__(self, shape: Shape, core: CoreAttention) -> None:
        super().__init__()
        self.norm1 = _norm(shape.model)
        self.attention = Attention(shape, core)
        self.norm2 = _norm(shape.model)
        self.mlp = Mlp(shape)

    def forward(self, x: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x), cosines, sines)
        out: Tensor = x + self.mlp(self.norm2(x))
        return out


class Decoder(nn.Module):
    """One rank's slice of one sequence in, its share of the step's mean loss out."""

    def __init__(self, shape: Shape, core: CoreAttention) -> None:
        super().__init__()
        model = shape.model
        self.shape = shape
        self.embedding = nn.Embedding(model.vocabulary, model.hidden)
        self.layers = nn.ModuleList(Block(shape, core) for _ in range(model.layers))
        self.final_norm = _norm(model)
        self.head = nn.Linear(model.hidden, model.vocabulary, bias=False)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Decoder:
        """Parameters are made on their device in their dtype; DeepSpeed's `to` has nothing to do.

        And it could not do it to fake tensors.
        """
        return self

    def forward(self, tokens: Tensor, targets: Tensor) -> Tensor:
        """Tokens and targets are int64 [1, local tokens].

        Returns their mean cross entropy over `loss_divisor`, so that what DeepSpeed makes of all
        ranks' gradients is the gradient of the step's mean.
        """
        x = self.embedding(tokens)
        start = self.shape.sequence_rank * tokens.shape[1]
        end = start + tokens.shape[1]
        cosines, sines = rotary_tables(self.shape.model, start, end, x.device, x.dtype)
        cosines = cosines.unsqueeze(1)
        sines = sines.unsqueeze(1)
        for index, block in enumerate(self.layers):
            # The first blocks: what the last ones kept is free before the first recompute.
            if index < self.shape.checkpointed_layers:
                x = checkpoint(
                    block, x, cosines, sines, use_reentrant=False, preserve_rng_state=False
                )
            else:
                x = block(x, cosines, sines)
        return self.loss(self.final_norm(x), targets)

    def loss(self, x: Tensor, targets: Tensor) -> Tensor:
        count = targets.numel() * self.shape.loss_divisor

        def cross_entropy(head: nn.Module, x: Tensor, targets: Tensor) -> Tensor:
            logits = head(x).float().flatten(0, -2)
            return F.cross_entropy(logits, targets.flatten(), reduction="sum") / count

        if not self.shape.tiled_loss:
            return cross_entropy(self.head, x, targets)
        from deepspeed.runtime.sequence_parallel.ulysses_sp import TiledFusedLogitsLoss

        # As many tiles as ALST gives an MLP: tiles of about `hidden` tokens.
        tokens = x.shape[1]
        tiles = even_tiles(tokens, math.ceil(tokens / self.shape.model.hidden))
        weights = [self.head.weight]
        out: Tensor = TiledFusedLogitsLoss.apply(
            cross_entropy, self.head, x, targets, None, tiles, weights, "sum"
        )
        return out


def load_weights(
    decoder: Decoder, weights: Mapping[str, Tensor], device: torch.device, dtype: torch.dtype
) -> None:
    """Copy canonical weights into a decoder that was built on the meta device."""
    model = decoder.shape.model
    own: dict[str, Tensor] = {}
    for name, value in weights.items():
        own[name] = value.to(device, dtype, copy=True)
    kinds = [n.rpartition(".")[2] for n in block_of(model).weights if "attention.query" in n]
    for layer in range(model.layers):
        prefix = f"layers.{layer}.attention"
        for kind in kinds:
            parts = [own.pop(f"{prefix}.{name}.{kind}") for name in ("query", "key", "value")]
            own[f"{prefix}.qkv.{kind}"] = torch.cat(parts)
    decoder.load_state_dict(own, assign=True)
