"""The decoder that FSDP2 shards: plain torch modules around fused attention.

Module names are the canonical weight names, but for `attention.qkv`: query, key and value are one
matrix, so that one product computes all three and one rotation serves query and key.
"""

from __future__ import annotations

from functools import partial

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint, noop_context_fn

from baselines.native.checkpointing import contexts_of
from baselines.native.settings import NativeSettings
from baselines.native.ulysses import heads_of_this_rank, tokens_of_this_rank
from baselines.reference import rotary_tables, rotate
from sppo.config.models import Model


def _norm(model: Model) -> nn.Module:
    kind = nn.RMSNorm if model.norm == "rmsnorm" else nn.LayerNorm
    return kind(model.hidden, eps=model.norm_epsilon)


class Attention(nn.Module):
    """Attention of a block. group: the ranks that share a sequence; None without Ulysses."""

    def __init__(self, model: Model, group: dist.ProcessGroup | None) -> None:
        super().__init__()
        self.rotated_and_value = [model.heads + model.kv_heads, model.kv_heads]
        self.query_and_key = [model.heads, model.kv_heads]
        self.head_width = model.head_width
        self.group = group
        # Every rank needs a KV head of its own.
        self.kv_copies = 1 if group is None else max(1, group.size() // model.kv_heads)
        width = model.hidden + 2 * model.kv_width
        self.qkv = nn.Linear(model.hidden, width, bias=model.biases)
        self.output = nn.Linear(model.hidden, model.hidden, bias=model.biases)

    def forward(self, x: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
        heads = self.qkv(x).unflatten(-1, (-1, self.head_width))
        query_key, value = heads.split_with_sizes(self.rotated_and_value, dim=2)
        rotated = rotate(query_key, cosines, sines)
        query, key = rotated.split_with_sizes(self.query_and_key, dim=2)
        if self.kv_copies > 1:
            key = key.repeat_interleave(self.kv_copies, dim=2)
            value = value.repeat_interleave(self.kv_copies, dim=2)
        out: Tensor = self.output(self._attend(query, key, value).flatten(2))
        return out

    def _attend(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Causal attention of [1, own tokens, heads, width] over the whole sequence."""
        operands = [query, key, value]
        if self.group is not None:
            operands = [heads_of_this_rank(x, self.group) for x in operands]
        query, key, value = (x.transpose(1, 2) for x in operands)
        out = F.scaled_dot_product_attention(
            query, key, value, is_causal=True, enable_gqa=query.shape[1] != key.shape[1]
        ).transpose(1, 2)
        return out if self.group is None else tokens_of_this_rank(out, self.group)


class Mlp(nn.Module):
    """MLP of a block."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.swiglu = model.activation == "swiglu"
        if self.swiglu:
            self.gate = nn.Linear(model.hidden, model.ffn, bias=model.biases)
        self.up = nn.Linear(model.hidden, model.ffn, bias=model.biases)
        self.down = nn.Linear(model.ffn, model.hidden, bias=model.biases)

    def forward(self, x: Tensor) -> Tensor:
        hidden = F.silu(self.gate(x)) * self.up(x) if self.swiglu else F.gelu(self.up(x))
        out: Tensor = self.down(hidden)
        return out


class DecoderBlock(nn.Module):
    """Attention and MLP, each after a norm and with a residual; checkpointed or not.

    The checkpoint is inside `forward`: FSDP2 gathers the weights outside of its region.
    """

    def __init__(
        self, model: Model, settings: NativeSettings, group: dist.ProcessGroup | None, index: int
    ) -> None:
        super().__init__()
        self.norm1 = _norm(model)
        self.attention = Attention(model, group)
        self.norm2 = _norm(model)
        self.mlp = Mlp(model)
        # The first blocks: the saved tensors of the last are free before the first recompute.
        self.checkpointed = index < settings.layers_to_checkpoint(model)
        self.contexts = contexts_of(settings.checkpointing) or noop_context_fn

    def forward(self, x: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
        if not self.checkpointed:
            return self._block(x, cosines, sines)
        saved = partial(
            checkpoint, use_reentrant=False, preserve_rng_state=False, context_fn=self.contexts
        )
        out: Tensor = saved(self._block, x, cosines, sines)
        return out

    def _block(self, x: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x), cosines, sines)
        out: Tensor = x + self.mlp(self.norm2(x))
        return out


class Decoder(nn.Module):
    """One rank's slice of one sequence -> the sum of its cross entropies."""

    def __init__(
        self,
        model: Model,
        settings: NativeSettings,
        group: dist.ProcessGroup | None,
        *,
        sequence_rank: int,
    ) -> None:
        super().__init__()
        self.model = model
        self.sequence_rank = sequence_rank
        self.embedding = nn.Embedding(model.vocabulary, model.hidden)
        blocks = (DecoderBlock(model, settings, group, index) for index in range(model.layers))
        self.layers = nn.ModuleList(blocks)
        self.final_norm = _norm(model)
        self.head = nn.Linear(model.hidden, model.vocabulary, bias=False)

    def forward(self, tokens: Tensor, targets: Tensor) -> Tensor:
        """Tokens and targets are int64 [1, own tokens]; the sum is float32, or float64."""
        x = self.embedding(tokens)
        start = self.sequence_rank * tokens.shape[1]
        end = start + tokens.shape[1]
        tables = rotary_tables(self.model, start, end, x.device, x.dtype)
        cosines, sines = (table.unsqueeze(1) for table in tables)
        for block in self.layers:
            x = block(x, cosines, sines)
        logits = self.head(self.final_norm(x)).flatten(0, -2)
        precise = logits if logits.dtype == torch.float64 else logits.float()
        return F.cross_entropy(precise, targets.flatten(), reduction="sum")
