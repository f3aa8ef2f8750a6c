"""No compilation in a counted step, no garbage collection in a timed step."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch

from sppo.kernels.fused import unfused


def uncompiled(device: torch.device) -> AbstractContextManager[Any]:
    """Run a step without torch.compile on CUDA, for a step under a dispatch mode.

    A function compiled there would stay so. Megatron compiles its fused activations, and the timed
    steps need them.
    """
    return _without_compiler() if device.type == "cuda" else nullcontext()


@contextmanager
def _without_compiler() -> Iterator[None]:
    with torch.compiler.set_stance("force_eager"), unfused():
        yield


@contextmanager
def no_garbage_collection() -> Iterator[None]:
    """Collect garbage before the step, and not during the step."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
