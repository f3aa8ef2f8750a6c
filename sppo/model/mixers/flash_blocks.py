"""Causal attention of one subsequence against the keys and values of all earlier ones. Exact.

The square block on the diagonal is causal, the prefix before it is not. Where C ranks have every
C-th token, there are C squares, see `_late`. All are calls of a kernel
of attention (`sppo/kernels/`), merged by their log-sum-exp. In the backward each block gets the
global output (or a tensor with its sums, `scales_of_output`) and log-sum-exp. So the sums of its
gradients are those of full attention.

An empty block crashes the CPU operator, so an empty prefix has no blocks.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from sppo.config.errors import NotSupported
from sppo.kernels.registry import selected
from sppo.kernels.torch_attention import HALF_DTYPES
from sppo.model.mixers.kv_block import KvBlock, KvPair

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


def _merge_from(
    first: int, merged: tuple[Tensor, Tensor], block: tuple[Tensor, Tensor]
) -> tuple[Tensor, Tensor]:
    """`_merge` of a block whose queries begin with number `first`."""
    out, logsumexp = merged
    if out.dtype in (torch.bfloat16, torch.float16):
        out = out.float()
    if not first:
        return _merge(out, logsumexp, *block)
    _, sums = _merge(out[:, :, first:], logsumexp[:, :, first:], *block)  # the output in place
    return out, torch.cat((logsumexp[:, :, :first], sums), 2)


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


def _late(place: int, block: int) -> int:
    """1 where the keys of a block are one place too late for equal counts of queries, else 0.

    Query n of `place` has position C n + place, key n of a block C n + block. So queries see the
    keys up to their own number, but of later places only those before it: a causal square all the
    same, without the first query and the last key.
    """
    return int(block > place)


def attend(
    query: Tensor, own: Sequence[KvPair], prefix: Iterable[KvPair], place: int = 0
) -> tuple[Tensor, Tensor]:
    """Output [1, H, l, D] and log-sum-exp [1, H, l] of a subsequence's queries [H, l, D].

    own: its keys and values [Hkv, l, D], of C ranks with every C-th token each; the queries are
    those of rank `place`. prefix: keys and values of all earlier positions, in blocks.
    """
    batch = query.unsqueeze(0)
    merged = _square_forward(batch, own[0][0].unsqueeze(0), own[0][1].unsqueeze(0))
    for number, (keys, values) in enumerate(own[1:], 1):
        late = _late(place, number)
        end = query.shape[1] - late
        if end:
            block = _square_forward(
                batch[:, :, late:], keys[:, :end].unsqueeze(0), values[:, :end].unsqueeze(0)
            )
            merged = _merge_from(late, merged, block)
    for keys, values in prefix:
        block = selected[query.device.type].forward(
            batch, keys.unsqueeze(0), values.unsqueeze(0), False
        )
        merged = _merge(*merged, *block)
        del keys, values, block  # gathered ones are freed before the next are
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
    own: Sequence[KvBlock],
    prefix: Iterable[KvBlock],
    place: int = 0,
) -> Tensor:
    """Gradient of the queries [1, H, l, D], in the accumulators' dtype.

    grad, query and out are [1, H, l, D], logsumexp [1, H, l]; own, place: see `attend`. dK and dV
    are added to the accumulators of `own` and of every block of the prefix.
    """
    subsequence = _Queries(grad, query, out, logsumexp)
    tokens, precision = query.shape[2], own[0].key_gradients.dtype
    if len(own) == 1 and _halves(tokens, query.device) is None:
        total = _block_backward(subsequence, own[0], True).to(precision)
    else:
        total = torch.zeros_like(query, dtype=precision)
        for number, block in enumerate(own):
            late = _late(place, number)
            if late == tokens:
                continue
            rows = subsequence.part(slice(late, tokens))
            keys = KvBlock(*(buffer[:, : tokens - late] for buffer in block))
            _square_backward(rows, keys, total[:, :, late:])
            del block, keys
    for block in prefix:
        total.add_(_block_backward(subsequence, block, False))
        del block  # a gathered one is freed before the next is
    return total


def _square_backward(rows: _Queries, block: KvBlock, total: Tensor) -> None:
    """Add the gradient of queries from the causal square with their keys to `total`."""
    for queries, keys, causal in _square_blocks(rows.query.shape[2], rows.query.device):
        columns = KvBlock(*(buffer[:, keys] for buffer in block))
        total[:, :, queries].add_(_block_backward(rows.part(queries), columns, causal))


class _Queries(NamedTuple):
    """Some queries of a subsequence with the inputs of their backward, [1, H, n, ...]."""

    grad: Tensor
    query: Tensor
    out: Tensor
    logsumexp: Tensor

    def part(self, rows: slice) -> _Queries:
        """These rows of them. CUDA's kernels take a log-sum-exp without strides."""
        grad, query, out, logsumexp = (tensor[:, :, rows] for tensor in self)
        return _Queries(grad, query, out, logsumexp.contiguous())


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
