"""Where an engine runs: device, dtype, and who listens to what its storages hold."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch

from sppo.team import Alone, Team


def _nobody(kind: Any, tensor: torch.Tensor) -> None:
    """Outside the accounted step nobody listens."""


@dataclass(frozen=True, kw_only=True)
class Runtime:
    """`label(kind, tensor)`: kinds are "activations", "kv", "dkv", "staging", "host".

    `team`: the ranks that share a stage's weights, heads and tokens.
    """

    device: torch.device
    dtype: torch.dtype
    label: Callable[[Any, torch.Tensor], None] = _nobody
    team: Team = field(default_factory=Alone)
