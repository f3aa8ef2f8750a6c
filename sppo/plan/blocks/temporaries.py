"""The types of what a block makes beside what is kept, operation by operation. No torch.

A compute walks through its operations; at each there is a sum of tensors that exist only then, all
of so many bytes a token. `memory_model/temporaries.py` puts a block's walk into that of a part.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from sppo.config.models import Model


class TemporaryPeak(NamedTuple):
    """Bytes: (tokens x per_token + keys x per_key + tile x per_tile) / shards + fixed.

    keys: of the prefix, in one call of attention; tile: tokens of the loss with logits at a time.
    `later` is only where there is a prefix. `exchanging`: MSP slices have exchanged dK and dV.
    """

    per_token: int
    per_key: int = 0
    per_tile: int = 0
    fixed: int = 0
    later: bool = False
    exchanging: bool = False


class StepPeak(NamedTuple):
    """A temporary peak at a step of a compute; at `recomputed` bytes of a saved tensor reappear."""

    step: int
    peak: TemporaryPeak
    recomputed: str | None = None
    recomputed_bytes: int = 0


class Span(NamedTuple):
    """The steps of a block at which a unit is held: made or first read, and read for the last time.

    In a forward a unit that is not kept is held until its last step all the same.
    """

    first: int
    last: int


class Recomputing(NamedTuple):
    """Bytes per token: what waits at each step of a backward, what making a unit again takes."""

    waiting_by_step: Mapping[int, int]
    recompute_bytes: Mapping[str, int]


@dataclass(frozen=True, kw_only=True)
class Placement:
    """What the temporaries of a block depend on but the decisions.

    `head`: its part has the head, and so receives no gradient. `hosted`: K and V lie in the host
    tier; `clones`: as gloo does, of what it sums over shards.
    """

    model: Model
    element_bytes: int
    shards: int
    head: bool
    hosted: bool
    clones: bool


class Sizes:
    """Bytes per token of hidden states, norms and MLP, times the shards."""

    def __init__(self, placement: Placement) -> None:
        model, size = placement.model, placement.element_bytes
        self.shards, self.element = placement.shards, size
        self.precise = max(4, size)
        self.narrow = size < 4  # a product is then added by way of a tensor of its own
        self.divided = placement.shards > 1
        self.thin = model.hidden * size
        self.received = 0 if placement.head else self.thin  # held to the end of the backward
        self.thin_precise = model.hidden * self.precise
        self.whole = self.thin * placement.shards
        self.gathered = self.whole if self.divided else 0
        self.summed = self.thin if self.divided else 0
        self.cloned = self.gathered if placement.clones else 0
        self.wide = model.ffn * size
        self.wides = 2 if model.activation == "swiglu" else 1
        self.rms = model.norm == "rmsnorm"
        self.hidden, self.ffn = model.hidden, model.ffn

    def if_divided(self, size: int) -> int:
        return size if self.divided else 0

    def if_narrow(self, size: int) -> int:
        return size if self.narrow else 0

    def product(self, width: int) -> int:
        """A gradient of a matrix [width, hidden] before it is added to the float32 one."""
        return self.if_narrow(-(-self.element * width * self.hidden // self.shards))

    @property
    def norm_forward(self) -> int:
        """Beside the output."""
        return self.thin_precise + self.if_narrow(self.thin_precise) if self.rms else 0

    @property
    def norm_backward(self) -> int:
        """With the gradients of its output and input, and their sum with the residual's."""
        if self.rms:
            return self.thin + 3 * self.thin_precise + self.if_narrow(self.thin)
        return 3 * self.thin
