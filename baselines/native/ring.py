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

from sppo.kernels.registry import selected

_RING: Any = torch_ring

KeptAttention: TypeAlias = list[tuple[Any, ...]]
"""The results of a block's attention between its forward and its recomputation: one or none."""


def _block(query: Tensor, key: Tensor, value: Tensor, *, is_causal: bool) -> Any:
    """A block by the selected kernel of attention: output and log-sum-exp."""
    return selected[query.device.type].forward(query, key, value, is_causal)


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
                group, 2, _block, query, key, value, is_causal=True
            )
            if kept is not None:
                kept.append((out.detach(), *further))
        result: Tensor = out
        log_sum_exp, *_ = further
        ctx.group = group
        ctx.save_for_backward(query, key, value, result, log_sum_exp)
        return result

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        def block_backward(*, is_causal: bool, **tensors: Tensor) -> Any:
            names = ("query", "key", "value", "out", "logsumexp")
            grad, operands = tensors["grad_out"], [tensors[name] for name in names]
            kernel: Any = selected[grad.device.type]
            return kernel.backward(grad, *operands, is_causal)

        query, key, value, *results = ctx.saved_tensors
        of_query, of_key, of_value = _RING._templated_ring_attention_backward(
            ctx.group,
            2,
            block_backward,
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
