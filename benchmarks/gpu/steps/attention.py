"""Every kernel of attention: its errors against float64, and its time."""

from __future__ import annotations

from typing import Any

import torch

from benchmarks.gpu.place import Place
from sppo.config.errors import NotSupported
from sppo.kernels import choice
from sppo.kernels.registry import KERNELS, NAMES

SLOW = "math"
"""A kernel that is not timed at full length."""


def kernels(place: Place) -> dict[str, Any]:
    """By kernel: errors and seconds, or why it is not there. Unseen kernels run too."""
    dtype = getattr(torch, place.dtype)
    values: dict[str, Any] = {"tokens": place.sizes.attention_tokens, "dtype": place.dtype}
    for grouped in (False, True):
        heads = _heads(place, grouped=grouped)
        values["grouped heads" if grouped else "heads"] = {
            name: _measured(place, name, dtype, heads) for name in NAMES
        }
    return values


def _heads(place: Place, *, grouped: bool) -> choice.Heads:
    model = place.sizes.model
    kv_heads = max(1, model.heads // 4) if grouped else model.heads
    return choice.Heads(query=model.heads, kv=kv_heads, width=model.head_width)


def _measured(place: Place, name: str, dtype: torch.dtype, heads: choice.Heads) -> dict[str, Any]:
    """Errors by result and seconds of a kernel, or its obstacle. What was found first stays."""
    values: dict[str, Any] = {}
    try:
        kernel = choice.find(name, place.device)
        problem = kernel.obstacle(place.device, dtype, heads.width)
        if problem is not None:
            raise NotSupported(problem)
        kernel.prepare()
        values["errors"] = choice.errors_of(kernel, place.device, dtype, heads)
        tokens = 512 if name == SLOW else place.sizes.attention_tokens
        values["tokens"] = tokens
        values["seconds"] = choice.seconds_of(
            kernel, place.device, dtype, heads, tokens=tokens, prefix=tokens
        )
        values["flops_per_second"] = _flops(heads, tokens) / values["seconds"]
    except (NotSupported, RuntimeError, ImportError) as error:
        values["problem"] = str(error).partition("\n")[0]
    finally:
        KERNELS[place.device.type]["flash"].prepare()
    return values


def _flops(heads: choice.Heads, tokens: int) -> float:
    """Operations of forward and backward: causal own keys and as many keys before; 3 forwards."""
    pairs = tokens * (tokens + 1) // 2 + tokens * tokens
    return 3.0 * 4 * heads.query * heads.width * pairs
