"""The device of a rank, and the callbacks that observe it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from sppo.offload.host_memory import TakeHost, host_memory


def _nothing(*_: object) -> None:
    """The default of the callbacks, outside an accounted step or a launch."""


@dataclass(frozen=True, kw_only=True)
class EngineContext:
    """The device and dtype of a rank, and its callbacks.

    `label(kind, tensor)` tells the accounting what a storage holds. The engine's kinds are
    "activations", "kv", "dkv", "staging", "host", "weights" and "gradients". `note(text)` says what
    this rank does next, before every instruction and every wait ("waits" is in that text).
    `take_host(bytes, device)` takes memory of the host tier. `ring_slots`: blocks of hosted K and V
    on the device (None: as the device needs).
    """

    device: torch.device
    dtype: torch.dtype
    label: Callable[[Any, torch.Tensor], None] = _nothing
    note: Callable[[str], None] = _nothing
    take_host: TakeHost = host_memory
    ring_slots: int | None = None
