"""Core attention for Megatron's local layer spec, without an S x S matrix of scores or masks.

Megatron's own local core attention materialises the scores, and its context parallelism needs
TransformerEngine. Tensors are [tokens, 1, heads, width] as Megatron passes them.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import torch
from megatron.core.tensor_parallel.mappings import (
    _gather_along_first_dim,
    _reduce_scatter_along_first_dim,
)
from megatron.core.transformer.module import MegatronModule
from torch import Tensor
from torch.distributed import ProcessGroup

from sppo.kernels.attention import AttentionKernel
from sppo.kernels.registry import selected

KeptAttention: TypeAlias = list[tuple[Tensor, list[Tensor]]]
"""Attention of a layer between its forward and its recomputation: one result or none.

A result is the output and the log-sum-exps.
"""


def _heads_first(x: Tensor) -> Tensor:
    """[tokens, 1, heads, width] as a view [1, heads, tokens, width]."""
    return x.permute(1, 2, 0, 3)


class CoreAttention(MegatronModule):  # type: ignore[misc]
    """Causal attention through torch's fused kernels, with or without context parallelism.

    kept: set while a layer runs whose recomputation takes the attention of its forward.
    """

    def __init__(self, config: Any, *_: Any, pg_collection: Any = None, **__: Any) -> None:
        super().__init__(config=config)
        self.group = pg_collection.cp if config.context_parallel_size > 1 else None
        self.kept: KeptAttention | None = None

    def forward(self, query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any) -> Tensor:
        if self.group is None:
            out = (
                selected[query.device.type]
                .causal(_heads_first(query), _heads_first(key), _heads_first(value))
                .permute(2, 0, 1, 3)
            )
        else:
            out = _ContextParallelAttention.apply(query, key, value, self.group, self.kept)
        return out.reshape(*out.shape[:2], -1)


class _ContextParallelAttention(torch.autograd.Function):
    """Zig-zag context parallelism: of 2n chunks, rank r holds chunks r and 2n-1-r.

    K and V are gathered in the forward and again in the backward, not saved, as in
    TransformerEngine's all-gather variant. Each chunk attends to the whole prefix and itself.
    """

    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        group: ProcessGroup,
        kept: KeptAttention | None,
    ) -> Tensor:
        if kept:
            out, log_sums = kept.pop()
        else:
            out, log_sums = _attention_in_chunks(query, key, value, group)
            if kept is not None:
                kept.append((out.detach(), log_sums))
        ctx.group = group
        ctx.save_for_backward(query, key, value, out, *log_sums)
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, out, *log_sums = ctx.saved_tensors
        kernel = selected[query.device.type]
        keys, values = _gather_sequence(key, value, ctx.group)
        shape = (keys.shape[2], *key.shape[1:-1], 2 * key.shape[-1])
        packed = torch.zeros(shape, dtype=key.dtype, device=key.device)
        d_keys, d_values = _heads_first(packed).chunk(2, dim=-1)
        d_query = torch.zeros(query.shape, dtype=query.dtype, device=query.device)
        chunks = _chunks(query.shape[0], ctx.group)
        for (local, start, end), log_sum in zip(chunks, log_sums, strict=True):
            d_out, queries, result = (_heads_first(x[local]) for x in (gradients[0], query, out))
            for first, last, causal in _blocks(start, end, kernel):
                span = slice(first, last)
                block = (d_out, queries, keys[:, :, span], values[:, :, span], result, log_sum)
                d_q, d_k, d_v = kernel.backward(*block, causal)
                _heads_first(d_query[local]).add_(d_q)
                d_keys[:, :, span].add_(d_k)
                d_values[:, :, span].add_(d_v)
        d_local = _reduce_scatter_along_first_dim(_to_zigzag(packed, ctx.group), group=ctx.group)
        d_key, d_value = d_local.chunk(2, dim=-1)
        return d_query, d_key, d_value, None, None


def _attention_in_chunks(
    query: Tensor, key: Tensor, value: Tensor, group: ProcessGroup
) -> tuple[Tensor, list[Tensor]]:
    """Output, and the log-sum-exp of each of this rank's chunks."""
    keys, values = _gather_sequence(key, value, group)
    out = torch.empty(query.shape, dtype=query.dtype, device=query.device)
    log_sums = []
    for local, start, end in _chunks(query.shape[0], group):
        log_sum = _attend(
            _heads_first(query[local]), keys, values, start, end, _heads_first(out[local])
        )
        log_sums.append(log_sum)
    return out, log_sums


def _chunks(local_tokens: int, group: ProcessGroup) -> list[tuple[slice, int, int]]:
    """This rank's two chunks: local positions, first and last position in the whole sequence."""
    length = local_tokens // 2
    first, second = group.rank(), 2 * group.size() - 1 - group.rank()
    return [
        (slice(0, length), first * length, (first + 1) * length),
        (slice(length, 2 * length), second * length, (second + 1) * length),
    ]


def _gather_sequence(key: Tensor, value: Tensor, group: ProcessGroup) -> tuple[Tensor, Tensor]:
    """K and V of the whole sequence in its own order, [1, kv heads, tokens, width]."""
    gathered = _gather_along_first_dim(torch.cat((key, value), dim=-1), group=group)
    chunks = gathered.chunk(2 * group.size())
    ordered = torch.cat(chunks[0::2] + chunks[1::2][::-1])
    keys, values = _heads_first(ordered).chunk(2, dim=-1)
    return keys, values


def _to_zigzag(ordered: Tensor, group: ProcessGroup) -> Tensor:
    """The whole sequence with each rank's two chunks side by side, rank after rank."""
    chunks = ordered.chunk(2 * group.size())
    pairs = [(chunks[rank], chunks[-1 - rank]) for rank in range(group.size())]
    return torch.cat([chunk for pair in pairs for chunk in pair])


def _blocks(start: int, end: int, kernel: AttentionKernel) -> list[tuple[int, int, bool]]:
    """The calls that attend from queries [start, end) to keys [0, end): first, last, causal.

    A kernel that aligns its causal mask to the lower right needs one call. With a mask aligned to
    the upper left, the diagonal square and the prefix are two calls. An empty prefix, which would
    crash the kernel of CPUs, is left out.
    """
    if kernel.is_aligned_right:
        return [(0, end, True)]
    diagonal = (start, end, True)
    return [diagonal, (0, start, False)] if start else [diagonal]


def _attend(
    query: Tensor, keys: Tensor, values: Tensor, start: int, end: int, out: Tensor
) -> Tensor:
    """Write the attention of queries [start, end) to `out`; the log-sum-exp."""
    kernel = selected[query.device.type]
    results = [
        kernel.forward(query, keys[:, :, first:last], values[:, :, first:last], causal)
        for first, last, causal in _blocks(start, end, kernel)
    ]
    diagonal, log_sum = results[0]
    if len(results) == 1:
        out.copy_(diagonal)
        return log_sum
    prefix, prefix_log_sum = results[1]
    share = torch.sigmoid(prefix_log_sum - log_sum).unsqueeze(-1)
    torch.lerp(diagonal, prefix, share.to(diagonal.dtype), out=out)
    return torch.logaddexp(log_sum, prefix_log_sum)
