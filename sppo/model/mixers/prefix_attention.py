"""The attention of a block on one rank's heads: RoPE, the KV cache, and `flash_blocks.py`."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from sppo.comm.collectives import Team, as_gathered, in_order
from sppo.kernels import fused
from sppo.model.layers import Tag
from sppo.model.mixers.flash_blocks import attend, attend_backward
from sppo.model.mixers.kv_cache import LayerCache


def _pairs(x: Tensor) -> Tensor:
    """[..., D] as complex [..., D / 2]: neighbouring columns rotate together (`rotary_turns`)."""
    return torch.view_as_complex(x.unflatten(-1, (-1, 2)))


def rotate_into(x: Tensor, turns: Tensor, out: Tensor) -> Tensor:
    """RoPE in one complex product: x, out [heads, l, D]; turns complex [l, D / 2]."""
    if fused.switch.on:
        return fused.rotate_pairs(x, torch.view_as_real(turns), out)
    if x.dtype in (torch.float32, torch.float64):
        torch.mul(_pairs(x), turns, out=_pairs(out))
    else:
        out.copy_(torch.view_as_real(_pairs(x.float()) * turns).flatten(-2))
    return out


def split_heads(qkv: Tensor, width: int, kv_heads: int) -> tuple[Tensor, Tensor, Tensor]:
    """Views [heads, l, D], [kv_heads, l, D] twice, of qkv [l, (heads + 2 kv_heads) D]."""
    by_head = qkv.view(qkv.shape[0], -1, width).transpose(0, 1)
    heads = by_head.shape[0] - 2 * kv_heads
    query, key, value = torch.split(by_head, [heads, kv_heads, kv_heads])
    return query, key, value


def attend_prefix(
    query: Tensor, own: tuple[Tensor, Tensor], cache: LayerCache, start: int, size: int
) -> tuple[Tensor, Tensor]:
    """Rotated queries [heads, l, D] of positions start..start+l against `own` and all before.

    Returns the output [l, heads D], as a team of `size` gathers it, and its log-sum-exp
    [1, heads, l] by position.
    """
    tokens = query.shape[1]
    out, logsumexp = attend(query, own, cache.prefix(start))
    by_token = out.squeeze(0).transpose(0, 1)
    return as_gathered(by_token, size).reshape(tokens, -1), logsumexp


class PrefixAttention(torch.autograd.Function):
    """RoPE and causal attention of one subsequence; its K and V go into the cache.

    qkv [l, (heads + 2 kv_heads) D] of this rank's heads and all tokens, as gathered; turns complex
    [l, D / 2] by position. Returns [l, heads D], as gathered. It saves the rotated queries, the
    output and its log-sum-exp. The backward reads K and V from the cache; they are never saved.
    """

    @staticmethod
    def forward(
        ctx: Any, qkv: Tensor, turns: Tensor, cache: LayerCache, start: int, team: Team, tag: Tag
    ) -> Tensor:
        width = 2 * turns.shape[-1]
        query, key, value = split_heads(in_order(qkv, team.size), width, cache.kv_heads)
        rotated = rotate_into(query, turns, query.new_empty(query.shape))
        own_key, own_value = cache.place(key, start)
        rotate_into(key, turns, own_key)
        own_value.copy_(value)
        cache.keep(start, own_key, own_value)
        result, logsumexp = attend_prefix(rotated, (own_key, own_value), cache, start, team.size)
        tag("attention.query", rotated)
        tag("attention.output", result)
        tag("attention.logsumexp", logsumexp)
        ctx.save_for_backward(rotated, result, logsumexp)
        ctx.turns = turns
        ctx.cache = cache
        ctx.start = start
        ctx.size = team.size
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        rotated, result, logsumexp = ctx.saved_tensors
        cache, start = ctx.cache, ctx.start
        tokens, width = result.shape[0], rotated.shape[-1]

        def by_head(x: Tensor) -> Tensor:
            return in_order(x, ctx.size).view(tokens, -1, width).transpose(0, 1).unsqueeze(0)

        own = cache.own_gradients(start, tokens)
        query_gradient = attend_backward(
            by_head(grad.contiguous()),
            rotated.unsqueeze(0),
            by_head(result),
            logsumexp,
            own,
            cache.prefix_gradients(start, tokens),
        ).squeeze(0)
        heads = rotated.shape[0] + 2 * cache.kv_heads
        qkv_gradient = result.new_empty(tokens, heads * width)
        query, key, value = split_heads(qkv_gradient, width, cache.kv_heads)
        turns_back = ctx.turns.conj_physical()
        rotate_into(query_gradient.to(result.dtype), turns_back, query)
        rotate_into(own.key_gradients.to(result.dtype), turns_back, key)
        value.copy_(own.value_gradients)
        return as_gathered(qkv_gradient, ctx.size), None, None, None, None, None
