"""Where an engine runs: device, dtype, and who listens to what it holds and does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch

from sppo.comm.collectives import Alone, Team
from sppo.offload.host_memory import TakeHost, host_memory


def _nobody(kind: Any, tensor: torch.Tensor) -> None:
    """Outside the accounted step nobody listens."""


def _unnoted(doing: str) -> None:
    """Without a launch around it nobody asks where a rank is."""


@dataclass(frozen=True, kw_only=True)
class EngineContext:
    """`label(kind, tensor)`: kinds are "activations", "kv", "dkv", "staging", "host".

    `take_host` takes the host tier's memory. `team`: the ranks that share a stage's weights, heads
    and tokens.
    `note(text)` is told what comes next, before every instruction and every wait for a message.
    """

    device: torch.device
    dtype: torch.dtype
    label: Callable[[Any, torch.Tensor], None] = _nobody
    team: Team = field(default_factory=Alone)
    note: Callable[[str], None] = _unnoted
    take_host: TakeHost = host_memory
