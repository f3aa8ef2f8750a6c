"""The checkpointed regions of a decoder: what a backward runs again, and where inputs are kept.

DeepSpeed advises torch's checkpoint without a tensor-parallel group.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, TypeAlias

from torch.utils.checkpoint import checkpoint, noop_context_fn

from baselines.attention_saving import ATTENTION, contexts_saving
from baselines.deepspeed.settings import Checkpointing

Region: TypeAlias = Callable[..., Any]
"""Calls (function, *inputs); the backward runs the function again."""

Contexts: TypeAlias = Callable[[], Any]
"""The `context_fn` of torch's checkpoint."""


def region(contexts: Contexts) -> Region:
    """torch's checkpoint without reentrant autograd."""
    return partial(checkpoint, use_reentrant=False, preserve_rng_state=False, context_fn=contexts)


def contexts_of(checkpointing: Checkpointing) -> Contexts:
    """torch's own contexts of a checkpointing."""
    return contexts_saving(ATTENTION) if checkpointing == "save-attention" else noop_context_fn


def hosted_by_deepspeed(region: Region, offload: Any) -> Region:
    """The region with its first input in host memory.

    offload: DeepSpeed's CheckpointHiddenStatesOffload, which must be entered. It hosts what is
    marked.
    """

    def run(function: Callable[..., Any], *inputs: Any) -> Any:
        offload.mark(inputs[0])
        return region(function, *inputs)

    return run
