"""Ulysses: an all-to-all turns shards of tokens into shards of heads, and back.

torch ships ring attention alone (`torch.distributed.tensor.experimental`), so these functions are
ours, on torch's functional all-to-all. Its output is a tensor of its own, which a checkpointing
policy can save. `dist.all_to_all_single` writes into a given buffer, which no policy can.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def exchange(pieces: Tensor, group: dist.ProcessGroup) -> Tensor:
    """Send piece i of `pieces` [ranks, ...] to rank i; returns the received pieces by sender."""
    lengths = [1] * group.size()
    received = torch.ops._c10d_functional.all_to_all_single(
        pieces.contiguous(), lengths, lengths, group.group_name
    )
    out: Tensor = torch.ops._c10d_functional.wait_tensor(received)
    return out


class _Exchange(torch.autograd.Function):
    """`exchange` with its gradient, which is the exchange of the gradient."""

    @staticmethod
    def forward(ctx: Any, pieces: Tensor, group: dist.ProcessGroup) -> Tensor:
        ctx.group = group
        return exchange(pieces, group)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return exchange(gradients[0], ctx.group), None


def heads_of_this_rank(x: Tensor, group: dist.ProcessGroup) -> Tensor:
    """From [1, own tokens, heads, width] to [1, tokens, own heads, width]."""
    by_rank = x[0].unflatten(1, (group.size(), -1)).transpose(0, 1)
    out: Tensor = _Exchange.apply(by_rank, group)
    return out.flatten(0, 1).unsqueeze(0)


def tokens_of_this_rank(x: Tensor, group: dist.ProcessGroup) -> Tensor:
    """From [1, tokens, own heads, width] to [1, own tokens, heads, width]."""
    by_rank = x[0].unflatten(0, (group.size(), -1))
    out: Tensor = _Exchange.apply(by_rank, group)
    return out.transpose(0, 1).flatten(1, 2).unsqueeze(0)
