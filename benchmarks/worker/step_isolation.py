"""What must not happen inside a step that is timed or counted."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch


def uncompiled(device: torch.device) -> AbstractContextManager[Any]:
    """For a step under a dispatch mode: what would be compiled there would never be again.

    Megatron fuses its activations by torch.compile on CUDA; the timed steps must have them fused.
    """
    if device.type != "cuda":
        return nullcontext()
    stance: AbstractContextManager[Any] = torch.compiler.set_stance("force_eager")
    return stance


@contextmanager
def no_garbage_collection() -> Iterator[None]:
    """Collect before, so that no step pays for another's garbage, and not inside."""
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
        gc.unfreeze()
