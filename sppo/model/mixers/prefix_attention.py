"""The attention of a block on one rank's heads: RoPE, the KV cache, and `flash_blocks.py`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from sppo.comm.collectives import as_gathered, in_order
from sppo.comm.stage_ranks import StageRanks
from sppo.kernels.attention import scales_of_output
from sppo.model.layers import Tag
from sppo.model.mixers.exchanged_pieces import (
    Saved,
    attend_in_pieces,
    attend_in_pieces_backward,
)
from sppo.model.mixers.flash_blocks import attend, attend_backward
from sppo.model.mixers.kv_block import KvPair
from sppo.model.mixers.layer_cache import LayerCache
from sppo.model.mixers.rotary import rotate_into, split_heads


def attend_prefix(
    query: Tensor, own: list[KvPair], cache: LayerCache, start: int, ranks: StageRanks
) -> tuple[Tensor, Tensor]:
    """Rotated queries [heads, l, D] of this context rank against `own` and all before `start`.

    own: K and V of the subsequence, which are let go. Returns the output [l / U, U heads D] of the
    tokens of `ranks.shards`, as gathered, and its log-sum-exp [1, heads, l] by position.
    """
    tokens = query.shape[1]
    out, logsumexp = attend(query, own, cache.prefix(start, tokens), ranks.context.index)
    own.clear()
    by_token = out.squeeze(0).transpose(0, 1)
    rows = as_gathered(by_token, ranks.head_ranks).reshape(tokens, -1)
    del out, by_token
    columns = rows.shape[1] * ranks.ulysses.size
    return ranks.exchange_for_tokens(rows, [columns]), logsumexp


SAVED_TENSORS = ("attention.query", "attention.output", "attention.logsumexp")
"""The names of `Saved`, in the plan's words."""


class PrefixAttention(torch.autograd.Function):
    """RoPE and causal attention of one subsequence; its K and V go into the cache.

    Its l tokens are those of this context rank. qkv [l / U, U (heads + 2 kv_heads) D] of the tokens
    of `ranks.shards`, as gathered, and of the heads that the U Ulysses ranks then divide; turns
    complex [C l, D / 2] by position. Returns [l / U, U heads D] likewise. It saves the rotated
    queries, the output and its log-sum-exp. The backward reads K and V from the cache; they are
    never saved.
    """

    @staticmethod
    def forward(
        ctx: Any,
        qkv: Tensor,
        turns: Tensor,
        cache: LayerCache,
        start: int,
        ranks: StageRanks,
        tag: Tag,
    ) -> Tensor:
        width = 2 * turns.shape[-1]
        keys = cache.kv_heads * ranks.ulysses.size * width
        ctx.widths = [qkv.shape[1] - 2 * keys, keys, keys]
        turns = ranks.own_positions(turns)
        ctx.in_pieces = ranks.exchange_pieces > 1 and cache.in_pieces
        if ctx.in_pieces:
            saved = attend_in_pieces(qkv, turns, ctx.widths, cache, start, ranks)
        else:
            saved = attend_at_once(qkv, turns, ctx.widths, cache, start, ranks)
        for name, tensor in zip(SAVED_TENSORS, saved, strict=True):
            tag(name, tensor)
        ctx.save_for_backward(*saved)
        ctx.turns = turns
        ctx.cache = cache
        ctx.start = start
        ctx.ranks = ranks
        return saved.result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        saved = Saved(*ctx.saved_tensors)
        backward = attend_in_pieces_backward if ctx.in_pieces else attend_at_once_backward
        qkv_gradient = backward(grad, saved, ctx.turns, ctx.widths, ctx.cache, ctx.start, ctx.ranks)
        return qkv_gradient, None, None, None, None, None


def attend_at_once(
    qkv: Tensor,
    turns: Tensor,
    widths: Sequence[int],
    cache: LayerCache,
    start: int,
    ranks: StageRanks,
) -> Saved:
    """The forward of `PrefixAttention`: turns complex [l, D / 2] of this context rank's tokens."""
    own_heads = in_order(ranks.exchange_for_heads(qkv, widths), ranks.head_ranks)
    query, key, value = split_heads(own_heads, 2 * turns.shape[-1], cache.kv_heads)
    rotated = rotate_into(query, turns, query.new_empty(query.shape))
    own_key, own_value = cache.place(key, start)
    rotate_into(key, turns, own_key)
    own_value.copy_(value)
    cache.keep(start, own_key, own_value)
    own = [(own_key, own_value)]
    if ranks.context.size > 1:
        own = cache.own(start, key.shape[1])
    return Saved(rotated, *attend_prefix(rotated, own, cache, start, ranks))


def attend_at_once_backward(
    grad: Tensor,
    saved: Saved,
    turns: Tensor,
    widths: Sequence[int],
    cache: LayerCache,
    start: int,
    ranks: StageRanks,
) -> Tensor:
    """Gradient of qkv [l / U, w] from that of the output [l / U, U heads D], likewise."""
    rotated, result, logsumexp = saved
    tokens, width = rotated.shape[1:]

    def by_head(x: Tensor) -> Tensor:
        own_heads = in_order(ranks.exchange_for_heads(x, [x.shape[1]]), ranks.head_ranks)
        return own_heads.view(tokens, rotated.shape[0], -1).transpose(0, 1).unsqueeze(0)

    own = cache.own_gradients(start, tokens)
    grad = grad.contiguous()
    if ranks.ulysses.size == 1:
        grad, output = by_head(grad), by_head(result)
    else:
        heads = (tensor.unflatten(-1, (-1, width)) for tensor in (grad, result))
        scales = by_head(scales_of_output(*heads).squeeze(-1))
        grad = by_head(grad)
        output = torch.mul(grad, scales, out=torch.empty_like(grad))
        del scales
    query_gradient = attend_backward(
        grad,
        rotated.unsqueeze(0),
        output,
        logsumexp,
        own,
        cache.prefix_gradients(start, tokens),
        ranks.context.index,
    ).squeeze(0)
    del grad, output
    key_sums, value_sums = cache.own_sums(start, own)
    del own
    columns = (rotated.shape[0] + 2 * cache.kv_heads) * width
    qkv_gradient = result.new_empty(tokens, columns)
    query, key, value = split_heads(qkv_gradient, width, cache.kv_heads)
    turns_back = turns.conj_physical()
    rotate_into(query_gradient.to(result.dtype), turns_back, query)
    rotate_into(key_sums.to(result.dtype), turns_back, key)
    value.copy_(value_sums)
    del query, key, value
    qkv_gradient = as_gathered(qkv_gradient, ranks.head_ranks)
    return ranks.exchange_for_tokens(qkv_gradient, widths)
