"""Where an engine runs: device, dtype, and who listens to what its storages hold."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch


def _nobody(kind: Any, tensor: torch.Tensor) -> None:
    """Outside the accounted step nobody listens."""


@dataclass(frozen=True, kw_only=True)
class Runtime:
    """`label(kind, tensor)`: kinds are "activations", "kv", "dkv", "staging", "host"."""

    device: torch.device
    dtype: torch.dtype
    label: Callable[[Any, torch.Tensor], None] = _nobody
