"""Causal attention of one subsequence against the keys and values of all earlier ones. Exact.

The square block on the diagonal is causal, the prefix before it is not; both are one call of a
stock ATen flash operator, merged by their log-sum-exp. In the backward each block gets the global
output and log-sum-exp, so the sums of its gradients are those of full attention.

An empty prefix kills the CPU operator, so it must be no block at all.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from sppo.errors import NotBuilt
from sppo.kvcache import Block

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


def attend(
    query: Tensor,
    own: tuple[Tensor, Tensor],
    prefix: Iterable[tuple[Tensor, Tensor]],
) -> tuple[Tensor, Tensor]:
    """Output [1, H, l, D] and log-sum-exp [1, H, l] of a subsequence's queries [H, l, D].

    own: its keys and values [Hkv, l, D]; prefix: those of all earlier positions, in blocks.
    """
    batch = query.unsqueeze(0)
    out, logsumexp = _block_forward(batch, own[0].unsqueeze(0), own[1].unsqueeze(0), True)
    for keys, values in prefix:
        other, other_logsumexp = _block_forward(
            batch, keys.unsqueeze(0), values.unsqueeze(0), False
        )
        weight = torch.sigmoid(other_logsumexp - logsumexp).unsqueeze(-1)
        if out.dtype in (torch.bfloat16, torch.float16):
            out = torch.lerp(out.float(), other.float(), weight).to(out.dtype)
        else:
            out = out.lerp_(other, weight)
        logsumexp = torch.logaddexp(logsumexp, other_logsumexp)
    return out, logsumexp


def attend_backward(
    grad: Tensor,
    query: Tensor,
    out: Tensor,
    logsumexp: Tensor,
    own: Block,
    prefix: Iterable[Block],
) -> Tensor:
    """Gradient of the queries [1, H, l, D], in the accumulators' dtype.

    dK and dV are added to the accumulators of `own` and of every block of the prefix.
    """

    def block(part: Block, causal: bool) -> Tensor:
        query_gradient, key_gradient, value_gradient = _block_backward(
            grad,
            query,
            part.keys.unsqueeze(0),
            part.values.unsqueeze(0),
            out,
            logsumexp,
            causal,
        )
        part.key_gradients.add_(key_gradient.squeeze(0))
        part.value_gradients.add_(value_gradient.squeeze(0))
        return query_gradient

    total = block(own, True).to(own.key_gradients.dtype)
    for part in prefix:
        total.add_(block(part, False))
    return total
