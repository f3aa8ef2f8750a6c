"""RoPE, and the queries, keys and values of the heads in rows of tokens."""

from __future__ import annotations

import torch
from torch import Tensor

from sppo.kernels import fused


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
