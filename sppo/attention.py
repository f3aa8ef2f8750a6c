"""Causal attention of one subsequence against the keys and values of all earlier ones. Exact.

The square block on the diagonal is causal, the prefix before it is not; both are one call of a
stock ATen flash operator, merged by their log-sum-exp. In the backward each block gets the global
output and log-sum-exp, so the sums of its gradients are those of full attention.

Shapes: query [1, H, l, D], keys and values [1, Hkv, start + l, D], log-sum-exp [1, H, l] float32.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sppo.errors import NotBuilt
from sppo.memory import PREFIX_BLOCK_TOKENS

_aten: Any = torch.ops.aten


def _block_forward(
    query: Tensor, keys: Tensor, values: Tensor, causal: bool
) -> tuple[Tensor, Tensor]:
    if query.device.type == "cuda":
        operator = _aten._scaled_dot_product_flash_attention
    else:
        operator = _aten._scaled_dot_product_flash_attention_for_cpu
    out, logsumexp = operator(query, keys, values, 0.0, causal)[:2]
    return out, logsumexp


def _block_backward(
    grad: Tensor,
    query: Tensor,
    keys: Tensor,
    values: Tensor,
    out: Tensor,
    logsumexp: Tensor,
    causal: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    if query.device.type == "cuda":
        # Without dropout the philox seed and offset are not read, but must be tensors.
        unused = torch.empty((), dtype=torch.uint64, device=query.device)
        gradients = _aten._scaled_dot_product_flash_attention_backward(
            grad,
            query,
            keys,
            values,
            out,
            logsumexp,
            None,
            None,
            query.shape[2],
            keys.shape[2],
            0.0,
            causal,
            unused,
            unused,
        )
    else:
        gradients = _aten._scaled_dot_product_flash_attention_for_cpu_backward(
            grad, query, keys, values, out, logsumexp, 0.0, causal
        )
    query_gradient, key_gradient, value_gradient = gradients
    return query_gradient, key_gradient, value_gradient


def check_attention(device: torch.device, dtype: torch.dtype) -> None:
    """Raise NotBuilt where the flash operator has no kernel."""
    if device.type == "cuda" and dtype not in (torch.bfloat16, torch.float16):
        raise NotBuilt(
            f"attention in {dtype} on CUDA: the flash kernel needs bfloat16; set the workload's "
            "dtype to bfloat16"
        )
    if device.type not in ("cpu", "cuda"):
        raise NotBuilt(f"attention on {device.type}: only cpu and cuda have a flash operator here")


def attend(query: Tensor, keys: Tensor, values: Tensor, start: int) -> tuple[Tensor, Tensor]:
    """Output [1, H, l, D] and log-sum-exp [1, H, l] of queries at positions start..start+l."""
    out, logsumexp = _block_forward(query, keys[:, :, start:], values[:, :, start:], True)
    if start == 0:  # an empty prefix kills the CPU operator
        return out, logsumexp
    prefix_out, prefix_logsumexp = _block_forward(
        query, keys[:, :, :start], values[:, :, :start], False
    )
    weight = torch.sigmoid(prefix_logsumexp - logsumexp).unsqueeze(-1)
    if out.dtype in (torch.bfloat16, torch.float16):
        merged = torch.lerp(out.float(), prefix_out.float(), weight).to(out.dtype)
    else:
        merged = out.lerp_(prefix_out, weight)
    return merged, torch.logaddexp(logsumexp, prefix_logsumexp)


def attend_backward(
    grad: Tensor,
    query: Tensor,
    keys: Tensor,
    values: Tensor,
    out: Tensor,
    logsumexp: Tensor,
    start: int,
    key_gradients: Tensor,
    value_gradients: Tensor,
) -> Tensor:
    """Gradient of the queries, in the accumulators' dtype; dK and dV are added in place.

    key_gradients, value_gradients: accumulators [1, Hkv, start + l, D] of every position up to the
    end, float32 or wider. The prefix is taken in blocks, so that the operator's own dK and dV stay
    small (and in the cache on a CPU).
    """

    def block(first: int, last: int, causal: bool) -> Tensor:
        span = slice(first, last)
        query_gradient, key_gradient, value_gradient = _block_backward(
            grad, query, keys[:, :, span], values[:, :, span], out, logsumexp, causal
        )
        key_gradients[:, :, span].add_(key_gradient)
        value_gradients[:, :, span].add_(value_gradient)
        return query_gradient

    total = block(start, keys.shape[2], True).to(key_gradients.dtype)
    for first in range(0, start, PREFIX_BLOCK_TOKENS):
        total.add_(block(first, min(first + PREFIX_BLOCK_TOKENS, start), False))
    return total
