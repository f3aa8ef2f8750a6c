"""Temporaries of a forward or backward in a model chunk, operation by operation. No torch.

A compute walks through its operations. At each there are tensors that exist only then, all of so
many bytes a token. Only the chunk's last block counts: all other blocks are saved by then.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache

from sppo.config.models import Model
from sppo.plan.blocks import block_of
from sppo.plan.blocks.temporaries import Placement, StepPeak, TemporaryPeak, TokenBytes
from sppo.plan.parts import PartShape
from sppo.plan.saved_tensors import head_saved_tensors

INDEX_BYTES = 8
"""Of a token's id or row index."""

BEFORE, AFTER = 0, 99
"""Steps around the last block: of a forward embedding and loss, of a backward the reverse."""


@dataclass(frozen=True, kw_only=True)
class PartKind(Placement):
    """All that a chunk's temporary peaks depend on but the decisions: chunks of a kind share them.

    Where it `clones`, its thread frees a sum and the summed tensor a little late.
    """

    layers: int
    first: bool

    @cached_property
    def saved_tensor_bytes(self) -> dict[str, int]:
        """Bytes of a block's saved tensors, per token of all shards."""
        saved_tensors = block_of(self.model).saved_tensors
        return {tensor.name: tensor.bytes(1, self.element_bytes) for tensor in saved_tensors}

    @property
    def late_bytes(self) -> int:
        """Per token of all shards, of the last exchange that may still be held: both its sides."""
        if not self.clones:
            return 0
        widths = [self.weight_shards * self.model.hidden] if self.weight_shards > 1 else []
        block = block_of(self.model)
        if self.ulysses > 1:
            widths += [*block.forward_all_to_alls, *block.backward_all_to_alls]
        sums = 0
        if self.context > 1:
            sums = (1 + self.context) * block.state_elements * max(4, self.element_bytes)
        return max(2 * max(widths, default=0) * self.element_bytes, sums)

    @cached_property
    def head_bytes(self) -> int:
        """Bytes of the head's saved tensors, per token of all shards."""
        saved_tensors = head_saved_tensors(self.model) if self.head else ()
        return sum(tensor.bytes(1, self.element_bytes) for tensor in saved_tensors)

    @classmethod
    def of(cls, shape: PartShape, *, hosted: bool, clones: bool) -> PartKind:
        """The kind of a chunk."""
        return cls(
            model=shape.model,
            element_bytes=shape.element_bytes,
            shards=shape.shards,
            ulysses=shape.ulysses,
            context=shape.context,
            layers=len(shape.layers),
            first=shape.first,
            head=shape.head,
            hosted=hosted,
            clones=clones,
        )


def forward_walk(kind: PartKind) -> Iterator[StepPeak]:
    """The last block, with the embedding before the first and the head after the last."""
    s = TokenBytes(kind)
    if kind.first:
        yield StepPeak(BEFORE, TemporaryPeak(s.thin + s.gathered + s.cloned + _row_bytes(kind)))
    if kind.layers:
        yield from block_of(kind.model).forward_walk(kind)
    if kind.head:
        logits = kind.model.vocabulary * (s.precise + s.if_narrow(s.element))
        tile = logits + s.gathered + 4 * INDEX_BYTES * s.weight_shards
        inputs = s.thin + s.if_dealt(INDEX_BYTES * s.head_shards)
        product = s.product(kind.model.vocabulary)
        yield StepPeak(AFTER, TemporaryPeak(inputs + s.norm_forward))
        yield StepPeak(AFTER, TemporaryPeak(inputs, per_tile=tile, fixed=product))
        summed = s.gathered + s.cloned + s.summed
        yield StepPeak(AFTER, TemporaryPeak(inputs, per_tile=tile + summed))


def backward_walk(kind: PartKind, dropped: frozenset[str]) -> Iterator[StepPeak]:
    """Gradient of the output, then the last block from its end, and the embedding's gradient."""
    s = TokenBytes(kind)
    if kind.head:
        yield StepPeak(BEFORE, TemporaryPeak(s.norm_backward))
    if kind.layers:
        yield from block_of(kind.model).backward_walk(kind)
        yield from _recomputing(kind, dropped)
    if kind.first:
        precise = s.if_narrow(s.weight_shards * s.thin_precise)
        rows = _row_bytes(kind)
        yield StepPeak(AFTER, TemporaryPeak(s.received + s.thin + s.gathered + precise + rows))


def _row_bytes(kind: PartKind) -> int:
    """Per token, times the shards: rows of the embedding that a rank has, of all tokens."""
    return 2 * INDEX_BYTES * kind.head_shards if kind.head_shards > 1 else 0


def _recomputing(kind: PartKind, dropped: frozenset[str]) -> Iterator[StepPeak]:
    """Temporaries that recompute saved tensors, with the gradients that wait meanwhile."""
    firsts = first_reads(kind.model, dropped)
    waiting, recompute, keys = block_of(kind.model).recomputing(kind)
    for name in dropped & recompute.keys():
        step, size = firsts[name], recompute[name]
        peak = TemporaryPeak(waiting[step] + size, per_key=keys.get(name, 0))
        yield StepPeak(step, peak, name, size)


@lru_cache(maxsize=256)
def first_reads(model: Model, dropped: frozenset[str]) -> dict[str, int]:
    """Step of a backward that first reads each saved tensor: maybe to recompute another one."""
    block = block_of(model)
    firsts = {name: span.first for name, span in block.backward_spans.items()}
    for tensor in reversed(block.saved_tensors):
        if tensor.name in dropped:
            for source in tensor.recomputed_from:
                firsts[source] = min(firsts[source], firsts[tensor.name])
    return firsts
