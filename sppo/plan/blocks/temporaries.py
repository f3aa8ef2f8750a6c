"""The types of a block's temporaries, operation by operation. No torch.

A compute walks through its operations. At each there are tensors that exist only then, all of so
many bytes a token. `memory_model/temporaries.py` puts a block's walk into that of a model chunk.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from sppo.config.models import Model


class TemporaryPeak(NamedTuple):
    """Bytes: (tokens x per_token + keys x per_key + tile x per_tile) / shards + fixed.

    keys: of the prefix, in one call of attention. tile: tokens of the loss with logits at a time.
    `later`: exists only with a prefix. `exchanging`: MSP slices have exchanged dK and dV.
    """

    per_token: int
    per_key: int = 0
    per_tile: int = 0
    fixed: int = 0
    later: bool = False
    exchanging: bool = False


class StepPeak(NamedTuple):
    """A temporary peak at a step of a compute; `recomputed`: the saved tensor it recomputes."""

    step: int
    peak: TemporaryPeak
    recomputed: str | None = None
    recomputed_bytes: int = 0


class Span(NamedTuple):
    """The steps of a block that hold a saved tensor: it is made or first read, and last read.

    A forward holds a tensor that is not saved until its last step all the same.
    """

    first: int
    last: int


class Recomputing(NamedTuple):
    """Bytes per token: waiting gradients by step, temporaries of recomputing by saved tensor.

    recompute_keys: those per key of the prefix, by saved tensor that has some.
    """

    waiting_by_step: Mapping[int, int]
    recompute_bytes: Mapping[str, int]
    recompute_keys: Mapping[str, int]


@dataclass(frozen=True, kw_only=True)
class Placement:
    """All that the temporaries of a block depend on but the decisions.

    `ulysses` of the `shards` have the same weights, `context` of them also the same heads. `head`:
    its chunk has the head, and so receives no gradient. `hosted`: K and V lie in the host tier.
    `clones`: a sum over shards clones its input, as gloo does.
    """

    model: Model
    element_bytes: int
    shards: int
    head: bool
    hosted: bool
    clones: bool
    ulysses: int = 1
    context: int = 1

    @property
    def weight_shards(self) -> int:
        """Ranks that divide the weights."""
        return self.shards // (self.ulysses * self.context)

    @property
    def head_shards(self) -> int:
        """Ranks that divide the heads."""
        return self.shards // self.context


class TokenBytes:
    """Bytes per token of hidden states (`thin`), norms and MLP (`wide`), times the shards."""

    def __init__(self, placement: Placement) -> None:
        model, size = placement.model, placement.element_bytes
        self.shards, self.element = placement.shards, size
        self.weight_shards = placement.weight_shards
        self.precise = max(4, size)
        self.narrow = size < 4  # a product is then a tensor of its own before it is added
        self.divided = placement.weight_shards > 1
        self.head_shards, self.context = placement.head_shards, placement.context
        self.dealt = placement.head_shards > 1  # tokens are not in the order of the sequence
        self.exchanged = placement.ulysses > 1
        self.thin = model.hidden * size
        self.received = 0 if placement.head else self.thin  # held to the end of the backward
        self.thin_precise = model.hidden * self.precise
        self.whole = self.thin * placement.weight_shards
        self.gathered = self.whole if self.divided else 0
        self.summed = self.thin if self.divided else 0
        self.cloned = self.gathered if placement.clones else 0
        self.wide = model.ffn * size
        self.wides = 2 if model.activation == "swiglu" else 1
        self.rms = model.norm == "rmsnorm"
        self.hidden, self.ffn = model.hidden, model.ffn

    def if_divided(self, size: int) -> int:
        """`size` where ranks divide the weights, else 0."""
        return size if self.divided else 0

    def if_dealt(self, size: int) -> int:
        """`size` where ranks divide the heads, else 0."""
        return size if self.dealt else 0

    def if_exchanged(self, size: int) -> int:
        """`size` where ranks exchange tokens for heads, else 0."""
        return size if self.exchanged else 0

    def if_narrow(self, size: int) -> int:
        """`size` where elements are narrower than float32, else 0."""
        return size if self.narrow else 0

    def product(self, width: int) -> int:
        """A gradient of a matrix [width, hidden] before it is added to the float32 one."""
        return self.if_narrow(-(-self.element * width * self.hidden // self.weight_shards))

    @property
    def norm_forward(self) -> int:
        """Temporaries of a norm's forward, without its output."""
        return self.thin_precise + self.if_narrow(self.thin_precise) if self.rms else 0

    @property
    def norm_backward(self) -> int:
        """Gradients of a norm's output and input, and their sum with the residual's."""
        if self.rms:
            return self.thin + 3 * self.thin_precise + self.if_narrow(self.thin)
        return 3 * self.thin
