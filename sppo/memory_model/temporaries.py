"""What a forward or backward makes beside what is kept, operation by operation. No torch.

A compute walks through its operations; at each there is a sum of tensors that exist only then, all
of so many bytes a token. Only the last block of a part counts, with which all others are kept.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import NamedTuple

from sppo.config.models import Model
from sppo.plan.blocks import block_of
from sppo.plan.parts import PartShape
from sppo.plan.saved_tensors import head_units

INDEX_BYTES = 8
"""Of a token's id or row."""


class Moment(NamedTuple):
    """Bytes: (tokens x per_token + keys x per_key + tile x per_tile) / shards + fixed.

    keys: of the prefix, in one call of attention; tile: tokens of the loss with logits at a time.
    `later` is only where there is a prefix. `told`: slices have told each other dK and dV.
    """

    per_token: int
    per_key: int = 0
    per_tile: int = 0
    fixed: int = 0
    later: bool = False
    told: bool = False


class At(NamedTuple):
    """A moment's step in its compute; `making`: the unit that is made again, by so many bytes."""

    step: int
    moment: Moment
    making: str | None = None
    making_bytes: int = 0


class Span(NamedTuple):
    """The steps of a block at which a unit is held: made or first read, and read for the last time.

    In a forward a unit that is not kept is held until its last step all the same.
    """

    first: int
    last: int


BACKWARD_SPANS = {
    "mlp.activation": Span(1, 1),
    "mlp.up": Span(2, 2),
    "mlp.gate": Span(2, 2),
    "norm2.output": Span(3, 3),
    "norm2.statistics": Span(4, 4),
    "block.middle": Span(4, 4),
    "attention.output": Span(5, 6),
    "attention.query": Span(6, 6),
    "attention.logsumexp": Span(6, 6),
    "norm1.output": Span(7, 7),
    "norm1.statistics": Span(8, 8),
    "block.input": Span(8, 8),
}
"""1 to 3 MLP, 4 norm, 5 product of attention, 6 attention, 7 the product before it, 8 norm."""

BEFORE, AFTER = 0, 99
"""Steps around a part's last block: in a forward the embedding and the loss, back the reverse."""


@dataclass(frozen=True, kw_only=True)
class PartKind:
    """What the moments of a part depend on but the fates: parts of a kind share them.

    `hosted`: K and V lie in the host tier; `clones`: as gloo does, of what it sums over shards. Its
    thread lets go of both a little late.
    """

    model: Model
    element_bytes: int
    shards: int
    layers: int
    first: bool
    head: bool
    hosted: bool
    clones: bool

    @cached_property
    def unit_bytes(self) -> dict[str, int]:
        """Bytes of a block's units, per token of all shards."""
        units = block_of(self.model).units
        return {unit.name: unit.bytes(1, self.element_bytes) for unit in units}

    @property
    def late_bytes(self) -> int:
        """Per token of all shards, of a sum that may still be held: its input and the clone."""
        if not self.clones or self.shards == 1:
            return 0
        return 2 * self.shards * self.model.hidden * self.element_bytes

    @cached_property
    def head_bytes(self) -> int:
        """The same of what the head keeps, all together."""
        units = head_units(self.model) if self.head else ()
        return sum(unit.bytes(1, self.element_bytes) for unit in units)

    @classmethod
    def of(cls, shape: PartShape, *, hosted: bool, clones: bool) -> PartKind:
        return cls(
            model=shape.model,
            element_bytes=shape.element_bytes,
            shards=shape.shards,
            layers=len(shape.layers),
            first=shape.first,
            head=shape.head,
            hosted=hosted,
            clones=clones,
        )


class _Sizes:
    """Bytes per token of what the operations of a block make, times the shards."""

    def __init__(self, kind: PartKind) -> None:
        model, size = kind.model, kind.element_bytes
        self.shards, self.element = kind.shards, size
        self.precise = max(4, size)
        self.narrow = size < 4  # a product is then added by way of a tensor of its own
        self.divided = kind.shards > 1
        self.thin = model.hidden * size
        self.received = 0 if kind.head else self.thin  # held to the end of the backward
        self.thin_precise = model.hidden * self.precise
        self.whole = self.thin * kind.shards
        self.gathered = self.whole if self.divided else 0
        self.summed = self.thin if self.divided else 0
        self.cloned = self.gathered if kind.clones else 0
        self.wide = model.ffn * size
        self.wides = 2 if model.activation == "swiglu" else 1
        self.key = model.kv_width * size
        self.qkv = self.thin + 2 * self.key
        self.hosted_key = self.key if kind.hosted else 0
        self.hosted_gradient = model.kv_width * self.precise if kind.hosted else 0
        self.turns = model.head_width * self.precise * kind.shards
        self.statistic = model.heads * self.precise
        self.rms = model.norm == "rmsnorm"
        self.rows = self.if_divided(2 * INDEX_BYTES * kind.shards)
        self.merged = self.thin + self.if_narrow(3 * self.thin_precise) + 5 * self.statistic
        self.hidden, self.ffn, self.kv_width = model.hidden, model.ffn, model.kv_width

    def if_divided(self, size: int) -> int:
        return size if self.divided else 0

    def if_narrow(self, size: int) -> int:
        return size if self.narrow else 0

    def product(self, width: int) -> int:
        """A gradient of a matrix [width, hidden] before it is added to the float32 one."""
        return self.if_narrow(-(-self.element * width * self.hidden // self.shards))

    @property
    def rotation(self) -> int:
        """RoPE of the queries by way of float32."""
        return self.if_narrow(2 * self.thin_precise)

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


def forward_walk(kind: PartKind) -> Iterator[At]:
    """The last block of a part, with what comes before the first and after the last."""
    s = _Sizes(kind)
    if kind.first:
        yield At(BEFORE, Moment(s.thin + s.gathered + s.cloned + s.rows))
    if kind.layers:
        both = s.qkv + s.if_divided(s.qkv) + 2 * s.hosted_key
        yield At(1, Moment(s.norm_forward))
        yield At(2, Moment(s.gathered + s.qkv))
        yield At(3, Moment(both + s.rotation))
        yield At(4, Moment(both + s.thin + s.merged, later=True))
        yield At(5, Moment(both + s.thin))
        yield At(6, Moment(s.gathered + s.cloned))
        yield At(7, Moment(s.norm_forward))
        yield At(8, Moment(s.gathered))
        yield At(9, Moment(0))
        yield At(10, Moment(s.gathered + s.cloned + s.thin))
    if kind.head:
        logits = kind.model.vocabulary * (s.precise + s.if_narrow(s.element))
        tile = logits + s.gathered + 4 * INDEX_BYTES * s.shards
        inputs = s.thin + s.if_divided(INDEX_BYTES * s.shards)
        product = s.product(kind.model.vocabulary)
        yield At(AFTER, Moment(inputs + s.norm_forward))
        yield At(AFTER, Moment(inputs, per_tile=tile, fixed=product))
        summed = s.gathered + s.cloned + s.summed
        yield At(AFTER, Moment(inputs, per_tile=tile + summed))


def backward_walk(kind: PartKind, dropped: frozenset[str]) -> Iterator[At]:
    """Gradient of the output, then the last block from its end, and the embedding's gradient."""
    s = _Sizes(kind)
    if kind.head:
        yield At(BEFORE, Moment(s.norm_backward))
    if kind.layers:
        gradients = s.wides * s.wide
        into = s.thin + s.gathered + s.whole + s.cloned + s.summed
        yield At(1, Moment(s.thin + s.gathered + s.wide))
        yield At(1, Moment(s.thin + s.gathered, fixed=s.product(s.ffn)))
        yield At(2, Moment(s.thin + s.wide + gradients))
        yield At(3, Moment(into + gradients, fixed=s.product(s.ffn)))
        yield At(4, Moment(s.thin + s.norm_backward))
        into += s.received
        yield At(5, Moment(s.received + s.thin + s.gathered + s.thin))
        yield At(5, Moment(s.received + s.thin + s.gathered, fixed=s.product(s.hidden)))
        yield from _attention_backward(s)
        yield At(7, Moment(into + s.qkv, fixed=s.product(s.hidden + 2 * s.kv_width)))
        yield At(8, Moment(s.received + s.thin + s.norm_backward))
        yield from _made_again(kind, s, dropped)
    if kind.first:
        precise = s.if_narrow(s.shards * s.thin_precise)
        yield At(AFTER, Moment(s.received + s.thin + s.gathered + precise + s.rows))


def _attention_backward(s: _Sizes) -> Iterator[At]:
    """Blocks of the prefix, then RoPE's gradient: beside the residual's and the output's."""
    outer = s.received + 2 * s.thin + 2 * s.hosted_key + 2 * s.hosted_gradient
    calls = outer + s.if_divided(2 * s.thin)
    yield At(6, Moment(calls + s.thin + 2 * s.key))
    yield At(6, Moment(calls + s.thin + s.if_narrow(s.thin_precise)))
    yield At(6, Moment(calls + s.thin_precise + s.thin, per_key=2 * s.key, later=True))
    outer += s.thin_precise + s.qkv + s.turns
    yield At(6, Moment(outer + s.if_narrow(s.thin) + s.rotation))
    yield At(6, Moment(outer + s.if_divided(s.qkv)))


def _made_again(kind: PartKind, s: _Sizes, dropped: frozenset[str]) -> Iterator[At]:
    """What it takes to make units again, beside the gradients that wait meanwhile."""
    firsts = first_reads(kind.model, dropped)
    wide = s.wides * s.wide
    waiting = {1: s.thin, 2: s.thin + s.wide, 3: s.thin + wide, 4: 2 * s.thin}
    late = s.received + s.thin
    waiting |= {5: late, 6: late + s.thin, 7: late + s.qkv, 8: late + s.thin}
    query = s.gathered + s.thin + s.if_divided(s.thin) + s.rotation
    output = 2 * s.hosted_key + s.thin + s.merged
    making = {
        "norm1.output": s.norm_forward,
        "attention.query": query,
        "attention.output": output,
        "block.middle": s.gathered + s.cloned,
        "norm2.output": s.norm_forward,
        "mlp.gate": s.gathered,
        "mlp.up": s.gathered,
    }
    for name in dropped & making.keys():
        step = firsts[name]
        yield At(step, Moment(waiting[step] + making[name]), name, making[name])


@lru_cache(maxsize=256)
def first_reads(model: Model, dropped: frozenset[str]) -> dict[str, int]:
    """Step of a block's backward at which each unit is first read: maybe to make another again."""
    firsts = {name: span.first for name, span in BACKWARD_SPANS.items()}
    for unit in reversed(block_of(model).units):
        if unit.name in dropped:
            for source in unit.made_from:
                firsts[source] = min(firsts[source], firsts[unit.name])
    return firsts
