"""The decoder that DeepSpeed trains: plain torch modules around its own Ulysses attention.

Modules own their parameters and are always called through `forward`, as ZeRO-3's hooks need.
Module names are the canonical weight names, but for `attention.qkv`: query, key and value are one
matrix, so that one product computes all three and one rotation serves query and key.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from baselines.deepspeed.checkpointing import Region
from baselines.deepspeed.settings import Checkpointing, DeepSpeedSettings
from baselines.protocol import Weights
from baselines.reference import rotary_tables, rotate
from sppo.config.models import Model
from sppo.plan.blocks import block_of

CoreAttention = Callable[..., Tensor]


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
    """The number of pieces that `torch.chunk(tokens, tiles)` returns, which may be less.

    DeepSpeed reduces a gradient after the given number of pieces. With fewer pieces it never
    reduces the gradient.
    """
    return math.ceil(tokens / math.ceil(tokens / tiles))


def _norm(model: Model) -> nn.Module:
    kind = nn.RMSNorm if model.norm == "rmsnorm" else nn.LayerNorm
    return kind(model.hidden, eps=model.norm_epsilon)


class Attention(nn.Module):
    """Attention of a block; `core` is DeepSpeed's or `local_attention`."""

    def __init__(self, model: Model, settings: DeepSpeedSettings, core: CoreAttention) -> None:
        super().__init__()
        self.rotated_and_value = [model.heads + model.kv_heads, model.kv_heads]
        self.query_and_key = [model.heads, model.kv_heads]
        self.head_width = model.head_width
        # ALST's rule: every rank needs a KV head of its own.
        self.kv_copies = max(1, settings.sequence_parallel // model.kv_heads)
        width = model.hidden + 2 * model.kv_width
        self.qkv = nn.Linear(model.hidden, width, bias=model.biases)
        self.output = nn.Linear(model.hidden, model.hidden, bias=model.biases)
        self.core = core

    def operands(self, x: Tensor, cosines: Tensor, sines: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Query, key and value of x [1, own tokens, h], each [1, own tokens, heads, width]."""
        heads = self.qkv(x).unflatten(-1, (-1, self.head_width))
        query_key, value = heads.split_with_sizes(self.rotated_and_value, dim=2)
        rotated = rotate(query_key, cosines, sines)
        query, key = rotated.split_with_sizes(self.query_and_key, dim=2)
        if self.kv_copies > 1:
            key = key.repeat_interleave(self.kv_copies, dim=2)
            value = value.repeat_interleave(self.kv_copies, dim=2)
        return query, key, value

    def forward(self, x: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
        out: Tensor = self.output(self.core(*self.operands(x, cosines, sines)).flatten(2))
        return out


class Mlp(nn.Module):
    """MLP of a block, tiled by DeepSpeed if the settings say so."""

    def __init__(self, model: Model, settings: DeepSpeedSettings) -> None:
        super().__init__()
        self.tiles = settings.tiled_mlp
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


class DecoderBlock(nn.Module):
    """Attention and MLP, each after a norm and with a residual.

    `region` checkpoints the block inside its forward, as `checkpointing` says, or parts of it.
    """

    def __init__(
        self,
        model: Model,
        settings: DeepSpeedSettings,
        core: CoreAttention,
        region: Region,
        checkpointing: Checkpointing,
    ) -> None:
        super().__init__()
        self.norm1 = _norm(model)
        self.attention = Attention(model, settings, core)
        self.norm2 = _norm(model)
        self.mlp = Mlp(model, settings)
        self.region = region
        self.checkpointing = checkpointing

    def forward(self, x: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
        if self.checkpointing == "split":
            operands = self.region(self._before_attention, x, cosines, sines)
            attended = self.attention.core(*operands).flatten(2)
            out: Tensor = self.region(self._behind_attention, x, attended)
        elif self.checkpointing == "save-attention":
            out = self.region(self._whole, x, cosines, sines)
        else:
            out = self._whole(x, cosines, sines)
        return out

    def _before_attention(
        self, x: Tensor, cosines: Tensor, sines: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        return self.attention.operands(self.norm1(x), cosines, sines)

    def _behind_attention(self, x: Tensor, attended: Tensor) -> Tensor:
        x = x + self.attention.output(attended)
        out: Tensor = x + self.mlp(self.norm2(x))
        return out

    def _whole(self, x: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x), cosines, sines)
        out: Tensor = x + self.mlp(self.norm2(x))
        return out


class Decoder(nn.Module):
    """One rank's slice of one sequence -> its share of the step's mean loss."""

    def __init__(
        self,
        model: Model,
        settings: DeepSpeedSettings,
        core: CoreAttention,
        region: Region,
        *,
        sequence_rank: int,
        loss_divisor: int,
    ) -> None:
        super().__init__()
        self.model = model
        self.sequence_rank = sequence_rank
        self.loss_divisor = loss_divisor
        self.tiled_loss = settings.tiled_loss
        self.embedding = nn.Embedding(model.vocabulary, model.hidden)
        # The first blocks: the saved tensors of the last are free before the first recompute.
        count = settings.layers_to_checkpoint(model)
        kinds = (settings.checkpointing if n < count else "none" for n in range(model.layers))
        blocks = (DecoderBlock(model, settings, core, region, kind) for kind in kinds)
        self.layers = nn.ModuleList(blocks)
        self.region = region
        self.blocks_in_region = count if settings.checkpointing == "blocks" else 0
        self.final_norm = _norm(model)
        self.head = nn.Linear(model.hidden, model.vocabulary, bias=False)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Decoder:
        """Nothing: parameters have device and dtype. DeepSpeed's `to` fails on fake tensors."""
        return self

    def forward(self, tokens: Tensor, targets: Tensor) -> Tensor:
        """Tokens and targets are int64 [1, local tokens].

        Returns their mean cross entropy over `loss_divisor`, so that DeepSpeed's reduction of all
        ranks' gradients gives the gradient of the step's mean.
        """
        x = self.embedding(tokens)
        start = self.sequence_rank * tokens.shape[1]
        end = start + tokens.shape[1]
        tables = rotary_tables(self.model, start, end, x.device, x.dtype)
        cosines, sines = (table.unsqueeze(1) for table in tables)
        for index, block in enumerate(self.layers):
            if index < self.blocks_in_region:
                x = self.region(block, x, cosines, sines)
            else:
                x = block(x, cosines, sines)
        return self.loss(self.final_norm(x), targets)

    def loss(self, x: Tensor, targets: Tensor) -> Tensor:
        """Mean cross entropy over `loss_divisor` of x [1, l, h] and targets int64 [1, l]."""
        count = targets.numel() * self.loss_divisor

        def cross_entropy(head: nn.Module, x: Tensor, targets: Tensor) -> Tensor:
            logits = head(x).float().flatten(0, -2)
            return F.cross_entropy(logits, targets.flatten(), reduction="sum") / count

        if not self.tiled_loss:
            return cross_entropy(self.head, x, targets)
        from deepspeed.runtime.sequence_parallel.ulysses_sp import TiledFusedLogitsLoss

        # As many tiles as ALST gives an MLP: tiles of about `hidden` tokens.
        tokens = x.shape[1]
        tiles = even_tiles(tokens, math.ceil(tokens / self.model.hidden))
        weights = [self.head.weight]
        out: Tensor = TiledFusedLogitsLoss.apply(
            cross_entropy, self.head, x, targets, None, tiles, weights, "sum"
        )
        return out


def load_weights(
    decoder: Decoder,
    weights: Weights,
    device: torch.device,
    dtype: torch.dtype,
    *,
    copy: bool = True,
) -> None:
    """Put canonical weights into a decoder that was built on the meta device.

    copy: without it the decoder may share them, for a reader that does not write.
    """
    model = decoder.model
    own = {name: value.to(device, dtype, copy=copy) for name, value in weights.items()}
    kinds = [n.rpartition(".")[2] for n in block_of(model).weights if "attention.query" in n]
    for layer in range(model.layers):
        prefix = f"layers.{layer}.attention"
        for kind in kinds:
            parts = [own.pop(f"{prefix}.{name}.{kind}") for name in ("query", "key", "value")]
            own[f"{prefix}.qkv.{kind}"] = torch.cat(parts)
    decoder.load_state_dict(own, assign=True)
