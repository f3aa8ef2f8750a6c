"""Causal attention of one subsequence against the keys and values of all earlier ones. Exact.

The square block on the diagonal is causal, the prefix before it is not. Both are calls of a kernel
of attention (`sppo/kernels/`), merged by their log-sum-exp. In the backward each block gets the
global output (or a tensor with its sums, `scales_of_output`) and log-sum-exp. So the sums of its
gradients are those of full attention.

An empty block crashes the CPU operator, so an empty prefix has no blocks.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from sppo.config.errors import NotSupported
from sppo.kernels.registry import selected
from sppo.kernels.torch_attention import HALF_DTYPES
from sppo.model.mixers.kv_cache import KvBlock

HALVED_QUERIES = range(193, 768)
"""Tokens of the causal squares that a CPU computes in halves, see `_halves`."""


def check_attention(device: torch.device, dtype: torch.dtype) -> None:
    """Raise NotSupported where the selected kernel of attention has none for the dtype."""
    name = selected[device.type].name if device.type in selected else ""
    if device.type == "cuda" and dtype not in HALF_DTYPES and name != "math":
        raise NotSupported(
            f"attention in {dtype} on CUDA: the {name} kernel needs bfloat16; set the workload's "
            "dtype to bfloat16"
        )
    if device.type not in ("cpu", "cuda"):
        raise NotSupported(
            f"attention on {device.type}: only cpu and cuda have a flash operator here"
        )


def _halves(tokens: int, device: torch.device) -> int | None:
    """Where to halve a causal square; None where one call is best.

    Below 768 queries the CPU operator takes keys by 512 and queries by 64, and skips only whole
    blocks. So it computes most of the masked scores. Two small squares and the block between them
    are less work. From 768 queries on, and on CUDA, the operator's blocks are fine enough.
    """
    if device.type != "cpu" or tokens not in HALVED_QUERIES:
        return None
    return -(-tokens // 64) * 32


def _merge(
    out: Tensor, logsumexp: Tensor, block_out: Tensor, block_logsumexp: Tensor
) -> tuple[Tensor, Tensor]:
    """Attention of the same queries to two sets of keys -> to both; `out` may be overwritten.

    The output is float32 or wider: rounded after every block, it would lose a bit with each.
    """
    weight = torch.sigmoid(block_logsumexp - logsumexp).unsqueeze(-1)
    if out.dtype in (torch.bfloat16, torch.float16):
        out = out.float()
    out = out.lerp_(block_out.to(out.dtype), weight)
    return out, torch.logaddexp(logsumexp, block_logsumexp)


def _square_forward(query: Tensor, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    """Causal attention of as many queries as keys."""
    half = _halves(query.shape[2], query.device)
    if half is None:
        return selected[query.device.type].forward(query, keys, values, True)
    (early, late), (keys, late_keys), (values, late_values) = (
        (tensor[:, :, :half], tensor[:, :, half:]) for tensor in (query, keys, values)
    )
    first = _square_forward(early, keys, values)
    second = _merge(
        *_square_forward(late, late_keys, late_values),
        *selected[query.device.type].forward(late, keys, values, False),
    )
    return torch.cat((first[0], second[0]), 2), torch.cat((first[1], second[1]), 2)


def attend(
    query: Tensor, own: tuple[Tensor, Tensor], prefix: Iterable[tuple[Tensor, Tensor]]
) -> tuple[Tensor, Tensor]:
    """Output [1, H, l, D] and log-sum-exp [1, H, l] of a subsequence's queries [H, l, D].

    own: its keys and values [Hkv, l, D]; prefix: those of all earlier positions, in blocks.
    """
    batch = query.unsqueeze(0)
    merged = _square_forward(batch, own[0].unsqueeze(0), own[1].unsqueeze(0))
    for keys, values in prefix:
        block = selected[query.device.type].forward(
            batch, keys.unsqueeze(0), values.unsqueeze(0), False
        )
        merged = _merge(*merged, *block)
    out, logsumexp = merged
    return (out if out.dtype == query.dtype else out.to(query.dtype)), logsumexp


def _square_blocks(
    tokens: int, device: torch.device, first: int = 0
) -> Iterator[tuple[slice, slice, bool]]:
    """The calls of `_square_forward` on positions from `first`: queries, keys, causal."""
    half = _halves(tokens, device)
    span = slice(first, first + tokens)
    if half is None:
        yield span, span, True
        return
    yield from _square_blocks(half, device, first)
    yield from _square_blocks(tokens - half, device, first + half)
    yield slice(first + half, span.stop), slice(first, first + half), False


def attend_backward(
    grad: Tensor,
    query: Tensor,
    out: Tensor,
    logsumexp: Tensor,
    own: KvBlock,
    prefix: Iterable[KvBlock],
) -> Tensor:
    """Gradient of the queries [1, H, l, D], in the accumulators' dtype.

    grad, query and out are [1, H, l, D], logsumexp [1, H, l]. dK and dV are added to the
    accumulators of `own` and of every block of the prefix.
    """
    subsequence = _Queries(grad, query, out, logsumexp)
    tokens, precision = query.shape[2], own.key_gradients.dtype
    if _halves(tokens, query.device) is None:
        total = _block_backward(subsequence, own, True).to(precision)
    else:
        total = torch.zeros_like(query, dtype=precision)
        for queries, keys, causal in _square_blocks(tokens, query.device):
            rows = _Queries(*(tensor[:, :, queries] for tensor in subsequence))
            block = KvBlock(*(buffer[:, keys] for buffer in own))
            total[:, :, queries].add_(_block_backward(rows, block, causal))
    for block in prefix:
        total.add_(_block_backward(subsequence, block, False))
    return total


class _Queries(NamedTuple):
    """Some queries of a subsequence with the inputs of their backward, [1, H, n, ...]."""

    grad: Tensor
    query: Tensor
    out: Tensor
    logsumexp: Tensor


def _block_backward(queries: _Queries, block: KvBlock, causal: bool) -> Tensor:
    """Gradient of the queries from one block of keys; dK and dV are added to its accumulators."""
    grad, query, out, logsumexp = queries
    keys, values = block.keys.unsqueeze(0), block.values.unsqueeze(0)
    gradients = selected[query.device.type].backward(
        grad, query, keys, values, out, logsumexp, causal
    )
    query_gradient = gradients[0]
    block.key_gradients.add_(gradients[1].squeeze(0))
    block.value_gradients.add_(gradients[2].squeeze(0))
    return query_gradient
