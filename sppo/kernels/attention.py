"""Attention of a block by a named kernel, forward and backward: one object for every system.

A block is some queries against some keys. Blocks of the same queries are merged by their
log-sum-exp. In the backward each block gets the output and log-sum-exp over all keys, so the sums
of its gradients are those of full attention. The backward reads the output only in its sums with
the gradient, by query and head: any tensor with these sums may take its place.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor
from torch.nn import attention as torch_flash

Block = tuple[Tensor, Tensor]
"""Output [1, H, n, D] and log-sum-exp [1, H, n] of queries over the keys of a block."""

Gradients = tuple[Tensor, Tensor, Tensor]
"""dQ, dK and dV of a block, shaped as query, keys and values."""


class AttentionKernel(ABC):
    """A kernel by its name. Queries are [1, H, n, D], keys and values [1, Hkv, m, D].

    `is_aligned_right`: with more keys than queries, the causal mask ends at the last key. Else it
    begins at the first key, as torch's `is_causal` says.
    """

    is_aligned_right = False

    def __init__(self, name: str) -> None:
        self.name = name

    @abstractmethod
    def forward(self, query: Tensor, keys: Tensor, values: Tensor, causal: bool) -> Block:
        """Output and log-sum-exp of one block."""

    @abstractmethod
    def backward(
        self,
        grad: Tensor,
        query: Tensor,
        keys: Tensor,
        values: Tensor,
        out: Tensor,
        logsumexp: Tensor,
        causal: bool,
    ) -> Gradients:
        """Gradients of one block. grad, out [1, H, n, D] and logsumexp [1, H, n]: over all keys.

        out: read only in sum(grad * out) over D (`scales_of_output`).
        """

    @abstractmethod
    def causal(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Causal attention [1, H, n, D] of as many queries as keys, under autograd."""

    @abstractmethod
    def obstacle(self, device: torch.device, dtype: torch.dtype, width: int) -> str | None:
        """Why this kernel cannot compute heads of that width here, with a cure; None if it can."""

    def prepare(self) -> None:
        """Make torch's own operators use this kernel: in this process, from now on."""
        use_registered(None)


def scales_of_output(grad: Tensor, output: Tensor) -> Tensor:
    """Factors c [..., 1] with sum(grad * output) = sum(grad * c grad) over the last axis.

    So c grad may take the output's place in a backward, which reads it only in these sums: D of
    FlashAttention-2 (arXiv 2307.08691, algorithm 2). c is float32 or wider, and 0 where grad is.
    """
    wide = torch.float64 if grad.dtype == torch.float64 else torch.float32
    sums = torch.mul(grad.to(wide), output).sum(-1, keepdim=True)
    squares = torch.linalg.vector_norm(grad, dim=-1, keepdim=True, dtype=wide).square_()
    return sums.div_(squares).nan_to_num_(0.0, 0.0, 0.0)


def registered_flash_attention() -> list[str]:
    """Implementations of flash attention that this torch can put in place of its own."""
    listing = getattr(torch_flash, "list_flash_attention_impls", list)
    return list(listing())


def use_registered(registered: str | None) -> None:
    """Put an implementation of torch's registry in place of FlashAttention-2; None: undo that."""
    current = getattr(torch_flash, "current_flash_attention_impl", lambda: None)()
    if registered == current:
        return
    if registered is None:
        torch_flash.restore_flash_attention_impl()
    else:
        torch_flash.activate_flash_attention_impl(registered)
