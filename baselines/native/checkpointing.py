"""torch's selective checkpointing: which operators a backward does not run again."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch.utils.checkpoint import (
    CheckpointPolicy,
    create_selective_checkpoint_contexts,
    noop_context_fn,
)

from baselines.native.settings import Checkpointing

_ATEN = torch.ops.aten

ATTENTION = frozenset(
    (
        _ATEN._scaled_dot_product_flash_attention_for_cpu.default,
        _ATEN._scaled_dot_product_flash_attention.default,
        _ATEN._scaled_dot_product_cudnn_attention.default,
        _ATEN._scaled_dot_product_efficient_attention.default,
    )
)
"""torch's fused attention, by device and dtype."""

_MESSAGES = frozenset(
    (
        torch.ops._c10d_functional.all_to_all_single.default,
        torch.ops._c10d_functional.reduce_scatter_tensor.default,
    )
)
"""Ulysses' messages, and those behind a row-wise product of TP, as torchtitan saves them."""

SAVED = {"save-attention": ATTENTION, "save-messages": ATTENTION | _MESSAGES}
"""By checkpointing: the operators whose outputs are saved."""


def contexts_of(checkpointing: Checkpointing) -> Callable[[], Any]:
    """The `context_fn` of torch's checkpoint."""
    saved = SAVED.get(checkpointing)
    if saved is None:
        return noop_context_fn

    def policy(context: Any, operator: Any, *args: Any, **kwargs: Any) -> CheckpointPolicy:
        if operator in saved:
            return CheckpointPolicy.MUST_SAVE
        return CheckpointPolicy.PREFER_RECOMPUTE

    return partial(create_selective_checkpoint_contexts, policy)
