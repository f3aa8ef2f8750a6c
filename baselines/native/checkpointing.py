"""torch's selective checkpointing: which operators a backward does not run again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.utils.checkpoint import noop_context_fn

from baselines.attention_saving import ATTENTION, contexts_saving
from baselines.native.settings import Checkpointing

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
    return noop_context_fn if saved is None else contexts_saving(saved)
