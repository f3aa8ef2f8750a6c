"""torch's own ring attention, on plain tensors instead of DTensors.

torch reaches these templates through a dispatcher of DTensors, which does not know the flash
operator of CPUs. The output of an attention that is kept once is not computed again.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor.experimental._context_parallel import _attention as torch_ring

_ATEN: Any = torch.ops.aten
_RING: Any = torch_ring

KeptAttention: TypeAlias = list[tuple[Any, ...]]
"""The results of a block's attention between its forward and its recomputation: one or none."""


def _flash(query: Tensor, key: Tensor, value: Tensor, *, is_causal: bool) -> Any:
    """torch's flash attention: output, log-sum-exp, and with CUDA seven values more."""
    if query.device.type == "cpu":
        return _ATEN._scaled_dot_product_flash_attention_for_cpu(query, key, value, 0.0, is_causal)
    return _ATEN._scaled_dot_product_flash_attention(query, key, value, 0.0, is_causal, False)


class _Ring(torch.autograd.Function):
    """Causal attention of a sequence whose keys and values go round the group."""

    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        group: dist.ProcessGroup,
        kept: KeptAttention | None,
    ) -> Tensor:
        if kept:
            out, *further = kept.pop()
        else:
            out, *further = _RING._templated_ring_attention(
                group, 2, _flash, query, key, value, is_causal=True
            )
            if kept is not None:
                kept.append((out.detach(), *further))
        result: Tensor = out
        log_sum_exp, *ctx.rest = further
        ctx.group = group
        ctx.save_for_backward(query, key, value, result, log_sum_exp)
        return result

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        def flash_backward(*, is_causal: bool, **tensors: Tensor) -> Any:
            names = ("grad_out", "query", "key", "value", "out", "logsumexp")
            operands = [tensors[name] for name in names]
            if operands[0].device.type == "cpu":
                return _ATEN._scaled_dot_product_flash_attention_for_cpu_backward(
                    *operands, 0.0, is_causal
                )
            *lengths, seed, offset, _ = ctx.rest
            return _ATEN._scaled_dot_product_flash_attention_backward(
                *operands, *lengths, 0.0, is_causal, seed, offset
            )

        query, key, value, *results = ctx.saved_tensors
        of_query, of_key, of_value = _RING._templated_ring_attention_backward(
            ctx.group,
            2,
            flash_backward,
            gradients[0],
            "grad_out",
            query,
            key,
            value,
            *results,
            is_causal=True,
        )
        return of_query, of_key, of_value, None, None


def ring_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    group: dist.ProcessGroup,
    kept: KeptAttention | None,
) -> Tensor:
    """Attention of [1, heads, own tokens, width] over the tokens of all ranks of the group.

    kept: a list that outlives the block's recomputation, where attention is saved; else None.
    """
    copies = query.shape[1] // key.shape[1]
    if copies > 1:
        key, value = (x.repeat_interleave(copies, dim=1) for x in (key, value))
    out: Tensor = _Ring.apply(query, key, value, group, kept)
    return out
