"""Core attention for Megatron's local layer spec, without an S x S matrix of scores or masks.

Megatron's own local core attention materialises the scores, and its context parallelism needs
TransformerEngine. Tensors are [tokens, 1, heads, width] as Megatron passes them.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from megatron.core.tensor_parallel.mappings import (
    _gather_along_first_dim,
    _reduce_scatter_along_first_dim,
)
from megatron.core.transformer.module import MegatronModule
from torch import Tensor
from torch.distributed import ProcessGroup

aten: Any = torch.ops.aten

KeptAttention: TypeAlias = list[tuple[Tensor, list[Tensor], list[Any]]]
"""Attention of a layer between its forward and its recomputation: one result or none.

A result is the output, the log-sum-exps and CUDA's extras.
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
            out = F.scaled_dot_product_attention(
                _heads_first(query),
                _heads_first(key),
                _heads_first(value),
                is_causal=True,
                enable_gqa=query.shape[2] != key.shape[2],
            ).permute(2, 0, 1, 3)
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
            out, log_sums, ctx.extras = kept.pop()
        else:
            out, log_sums, ctx.extras = _attention_in_chunks(query, key, value, group)
            if kept is not None:
                kept.append((out.detach(), log_sums, ctx.extras))
        ctx.group = group
        ctx.save_for_backward(query, key, value, out, *log_sums)
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, out, *log_sums = ctx.saved_tensors
        keys, values = _gather_sequence(key, value, ctx.group)
        shape = (keys.shape[2], *key.shape[1:-1], 2 * key.shape[-1])
        packed = torch.zeros(shape, dtype=key.dtype, device=key.device)
        d_keys, d_values = _heads_first(packed).chunk(2, dim=-1)
        d_query = torch.zeros(query.shape, dtype=query.dtype, device=query.device)
        chunks = _chunks(query.shape[0], ctx.group)
        for (local, start, end), log_sum, extra in zip(chunks, log_sums, ctx.extras, strict=True):
            d_out, queries, result = (_heads_first(x[local]) for x in (gradients[0], query, out))
            for first, last, causal in _blocks(start, end, query.device):
                span = slice(first, last)
                block = (d_out, queries, keys[:, :, span], values[:, :, span], result, log_sum)
                d_q, d_k, d_v = _block_backward(block, causal, extra)
                _heads_first(d_query[local]).add_(d_q)
                d_keys[:, :, span].add_(d_k)
                d_values[:, :, span].add_(d_v)
        d_local = _reduce_scatter_along_first_dim(_to_zigzag(packed, ctx.group), group=ctx.group)
        d_key, d_value = d_local.chunk(2, dim=-1)
        return d_query, d_key, d_value, None, None


def _attention_in_chunks(
    query: Tensor, key: Tensor, value: Tensor, group: ProcessGroup
) -> tuple[Tensor, list[Tensor], list[Any]]:
    """Output, and the log-sum-exp and the extras of each of this rank's chunks."""
    keys, values = _gather_sequence(key, value, group)
    out = torch.empty(query.shape, dtype=query.dtype, device=query.device)
    log_sums, extras = [], []
    for local, start, end in _chunks(query.shape[0], group):
        log_sum, extra = _attend(
            _heads_first(query[local]), keys, values, start, end, _heads_first(out[local])
        )
        log_sums.append(log_sum)
        extras.append(extra)
    return out, log_sums, extras


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


def _blocks(start: int, end: int, device: torch.device) -> list[tuple[int, int, bool]]:
    """The calls that attend from queries [start, end) to keys [0, end): first, last, causal.

    CUDA's flash kernel aligns its causal mask to the lower right, so one call is enough. The CPU
    kernel aligns the mask to the upper left. So the diagonal square and the prefix are two calls,
    and an empty prefix, which would crash the kernel, is left out.
    """
    if device.type == "cuda":
        return [(0, end, True)]
    diagonal = (start, end, True)
    return [diagonal, (0, start, False)] if start else [diagonal]


def _attend(
    query: Tensor, keys: Tensor, values: Tensor, start: int, end: int, out: Tensor
) -> tuple[Tensor, list[Any]]:
    """Write the attention of queries [start, end) to `out`; the log-sum-exp, and CUDA's extras."""
    results = [
        _block(query, keys[:, :, first:last], values[:, :, first:last], causal)
        for first, last, causal in _blocks(start, end, query.device)
    ]
    diagonal, log_sum, extra = results[0]
    if len(results) == 1:
        out.copy_(diagonal)
        return log_sum, extra
    prefix, prefix_log_sum, _ = results[1]
    share = torch.sigmoid(prefix_log_sum - log_sum).unsqueeze(-1)
    torch.lerp(diagonal, prefix, share.to(diagonal.dtype), out=out)
    return torch.logaddexp(log_sum, prefix_log_sum), extra


def _block(
    query: Tensor, key: Tensor, value: Tensor, causal: bool
) -> tuple[Tensor, Tensor, list[Any]]:
    if query.is_cuda:
        out, log_sum, *extra = aten._scaled_dot_product_flash_attention(
            query, key, value, 0.0, causal, False
        )
        return out, log_sum, extra[:6]
    out, log_sum = aten._scaled_dot_product_flash_attention_for_cpu(query, key, value, 0.0, causal)
    return out, log_sum, []


def _block_backward(block: tuple[Tensor, ...], causal: bool, extra: list[Any]) -> Any:
    """Gradients of query, keys and values of one block, given output and log-sum-exp over all.

    block: output gradient, query, keys, values, output [1, heads, n, width], log-sum-exp.
    """
    if block[0].is_cuda:
        *lengths, seed, offset = extra
        return aten._scaled_dot_product_flash_attention_backward(
            *block, *lengths, 0.0, causal, seed, offset
        )
    return aten._scaled_dot_product_flash_attention_for_cpu_backward(*block, 0.0, causal)
