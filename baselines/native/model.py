"""The decoder that FSDP2 shards: plain torch modules around fused attention.

Module names are the canonical weight names, but for `attention.qkv`: query, key and value are one
matrix, so that one product computes all three and one rotation serves query and key.

Under TP the modules inside a block get and give DTensors (`tensor_parallel.py`). Attention itself,
and the hidden states between blocks, are plain tensors of this rank: its heads, its tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.utils.checkpoint import checkpoint, noop_context_fn

from baselines.native.checkpointing import contexts_of
from baselines.native.ring import KeptAttention, ring_attention
from baselines.native.settings import NativeSettings
from baselines.native.ulysses import heads_of_this_rank, tokens_of_this_rank
from baselines.reference import rotary_tables, rotate
from sppo.config.models import Model
from sppo.kernels import fused
from sppo.kernels.registry import selected


def _norm(model: Model) -> nn.Module:
    kind = nn.RMSNorm if model.norm == "rmsnorm" else nn.LayerNorm
    return kind(model.hidden, eps=model.norm_epsilon)


@dataclass(frozen=True, kw_only=True)
class Groups:
    """The process groups of a sequence; None for a degree of 1.

    shards: the ranks over which FSDP2 shards; None for all ranks.
    """

    tensor: dist.ProcessGroup | None
    ulysses: dist.ProcessGroup | None
    ring: dist.ProcessGroup | None
    shards: dist.ProcessGroup | None

    @property
    def present(self) -> tuple[dist.ProcessGroup, ...]:
        """All groups that there are."""
        groups = (self.tensor, self.ulysses, self.ring, self.shards)
        return tuple(group for group in groups if group is not None)


def _size(group: dist.ProcessGroup | None) -> int:
    return 1 if group is None else group.size()


class Attention(nn.Module):
    """Attention of a block over the tokens of all ranks of a sequence."""

    def __init__(self, model: Model, groups: Groups) -> None:
        super().__init__()
        heads, kv_heads = (count // _size(groups.tensor) for count in (model.heads, model.kv_heads))
        self.rotated_and_value = [heads + kv_heads, kv_heads]
        self.query_and_key = [heads, kv_heads]
        self.head_width = model.head_width
        self.groups = groups
        # Every rank needs a KV head of its own.
        self.kv_copies = max(1, _size(groups.ulysses) // kv_heads)
        width = model.hidden + 2 * model.kv_width
        self.qkv = nn.Linear(model.hidden, width, bias=model.biases)
        self.output = nn.Linear(model.hidden, model.hidden, bias=model.biases)

    def forward(
        self, x: Tensor, cosines: Tensor, sines: Tensor, kept: KeptAttention | None
    ) -> Tensor:
        heads = self.qkv(x).unflatten(-1, (-1, self.head_width))
        query_key, value = heads.split_with_sizes(self.rotated_and_value, dim=2)
        turn = fused.piece(rotate) if fused.switch.on else rotate
        rotated = turn(query_key, cosines, sines)
        query, key = rotated.split_with_sizes(self.query_and_key, dim=2)
        if self.kv_copies > 1:
            key = key.repeat_interleave(self.kv_copies, dim=2)
            value = value.repeat_interleave(self.kv_copies, dim=2)
        out: Tensor = self.output(self._attend(query, key, value, kept).flatten(2))
        return out

    def _attend(
        self, query: Tensor, key: Tensor, value: Tensor, kept: KeptAttention | None
    ) -> Tensor:
        """Causal attention of [1, own tokens, heads, width] over the whole sequence."""
        operands = [query, key, value]
        ulysses, ring = self.groups.ulysses, self.groups.ring
        if ulysses is not None:
            operands = [heads_of_this_rank(x, ulysses) for x in operands]
        query, key, value = (x.transpose(1, 2) for x in operands)
        if ring is not None:
            out = ring_attention(query, key, value, ring, kept)
        else:
            out = selected[query.device.type].causal(query, key, value)
        out = out.transpose(1, 2)
        return out if ulysses is None else tokens_of_this_rank(out, ulysses)


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
        if not self.swiglu:
            hidden = F.gelu(self.up(x))
        elif fused.switch.on:
            hidden = fused.swiglu(self.gate(x), self.up(x))
        else:
            hidden = F.silu(self.gate(x)) * self.up(x)
        out: Tensor = self.down(hidden)
        return out


class DecoderBlock(nn.Module):
    """Attention and MLP, each after a norm and with a residual; checkpointed or not.

    The checkpoint is inside `forward`: FSDP2 gathers the weights outside of its region.
    """

    def __init__(self, model: Model, settings: NativeSettings, groups: Groups, index: int) -> None:
        super().__init__()
        self.norm1 = _norm(model)
        self.attention = Attention(model, groups)
        self.norm2 = _norm(model)
        self.mlp = Mlp(model)
        # The first blocks: the saved tensors of the last are free before the first recompute.
        self.checkpointed = index < settings.layers_to_checkpoint(model)
        ring = groups.ring is not None
        # A ring calls many flash operators: torch's policy would save the output of each.
        self.keeps_attention = ring and settings.checkpointing == "save-attention"
        self.contexts = noop_context_fn if ring else contexts_of(settings.checkpointing)

    def forward(self, x: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
        if not self.checkpointed:
            return self._block(x, cosines, sines, None)
        kept: KeptAttention | None = [] if self.keeps_attention else None
        saved = partial(checkpoint, use_reentrant=False, preserve_rng_state=False)
        if self.contexts is not noop_context_fn:  # torch.compile knows a policy's contexts alone
            saved = partial(saved, context_fn=self.contexts)
        out: Tensor = saved(self._block, x, cosines, sines, kept)
        return out

    def _block(
        self, x: Tensor, cosines: Tensor, sines: Tensor, kept: KeptAttention | None
    ) -> Tensor:
        x = x + self.attention(self.norm1(x), cosines, sines, kept)
        out: Tensor = x + self.mlp(self.norm2(x))
        return out


def joined(parts: Sequence[Tensor], axis: int) -> Tensor:
    """The parts in a row; a single part is not copied."""
    return parts[0] if len(parts) == 1 else torch.cat(tuple(parts), dim=axis)


class Decoder(nn.Module):
    """One rank's tokens of one sequence -> the sum of their cross entropies."""

    def __init__(self, model: Model, settings: NativeSettings, groups: Groups) -> None:
        super().__init__()
        self.model = model
        self.embedding = nn.Embedding(model.vocabulary, model.hidden)
        blocks = (DecoderBlock(model, settings, groups, index) for index in range(model.layers))
        self.layers = nn.ModuleList(blocks)
        self.final_norm = _norm(model)
        self.head = nn.Linear(model.hidden, model.vocabulary, bias=False)

    def forward(self, tokens: Tensor, targets: Tensor, positions: Sequence[range]) -> Tensor:
        """Tokens and targets are int64 [1, own tokens]; the sum is float32, or float64.

        positions: those of the tokens in the sequence. Under TP call it, and its backward, inside
        torch's `loss_parallel`: each rank has the logits of its part of the vocabulary.
        """
        x = self.embedding(tokens)
        tables = [rotary_tables(self.model, p.start, p.stop, x.device, x.dtype) for p in positions]
        cosines, sines = (joined(table, 0).unsqueeze(1) for table in zip(*tables, strict=True))
        for block in self.layers:
            x = block(x, cosines, sines)
        logits = self.head(self.final_norm(x)).flatten(0, -2)
        if fused.switch.on and not isinstance(logits, DTensor):
            return fused.cross_entropy(logits, targets.flatten())
        precise = logits if logits.dtype == torch.float64 else logits.float()
        loss = F.cross_entropy(precise, targets.flatten(), reduction="sum")
        return loss.to_local() if isinstance(loss, DTensor) else loss
