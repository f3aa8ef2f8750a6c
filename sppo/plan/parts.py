"""A model chunk as the memory model reads it: parameters and saved tensors. No torch.

All sizes are those of one rank of the stage that owns the chunk.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from operator import add
from typing import NamedTuple

from sppo.config.models import Model
from sppo.plan.blocks import block_of
from sppo.plan.saved_tensors import (
    HEAD_OFFLOAD_ORDER,
    SavedTensor,
    SavedTensorKey,
    head_saved_tensors,
)
from sppo.plan.weights import GATHERED_BLOCKS, canonical_weights, padded


class _Widths(NamedTuple):
    """Of saved tensors: (how many a chunk has, bytes of a token in each), and their sum."""

    each: tuple[tuple[int, int], ...]
    total: int


class Elements(NamedTuple):
    """One rank's elements of a chunk's parameters; `whole`: of those that every shard has whole."""

    vectors: int
    matrices: int
    whole: int


@lru_cache(maxsize=4096)
def _elements(model: Model, layers: range, head: bool, shards: int) -> Elements:
    by_place = _elements_by_place(model, shards)
    places: list[int | str] = list(layers)
    places += ["embedding"] if 0 in layers else []
    places += ["head"] if head else []
    parts = [by_place[place] for place in places if place in by_place]
    return Elements(*map(sum, zip(*parts, strict=True))) if parts else Elements(0, 0, 0)


@lru_cache(maxsize=64)
def _elements_by_place(model: Model, shards: int) -> dict[int | str, Elements]:
    """By the number of a layer, "embedding", or "head" for the final norm and the head."""
    by_place: dict[int | str, Elements] = {}
    for name, weight in canonical_weights(model).items():
        place: int | str = "embedding" if name.startswith("embedding") else "head"
        if name.startswith("layers."):
            place = int(name.split(".")[1])
        size = math.prod(weight.shard_shape(shards))
        dimensions = len(weight.shape)
        elements = (
            size if dimensions == 1 else 0,
            size if dimensions == 2 else 0,
            size if weight.sharded_axis is None else 0,
        )
        before = by_place.get(place, Elements(0, 0, 0))
        by_place[place] = Elements(*map(add, before, elements))
    return by_place


LATER_RUN = 7
"""How many times as long as the first run each later one is. The first run alone arrives, and in a
backward leaves, while attention waits. Its kernels are the shortest, so it has little work."""


def run_ends(pieces: int) -> list[tuple[int, int]]:
    """Ends of the runs of a subsequence in so many pieces, as fractions: (over, under)."""
    whole = 1 + LATER_RUN * (pieces - 1)
    return [(1 + LATER_RUN * number, whole) for number in range(pieces)]


def exchange_runs(rows: int, pieces: int) -> list[slice]:
    """`rows` in as many runs as `pieces`, or as there are rows."""
    count = max(1, min(pieces, rows))
    ends = [-(-rows * over // under) for over, under in run_ends(count)]
    return [slice(start, end) for start, end in zip([0, *ends[:-1]], ends, strict=True)]


@dataclass(frozen=True, kw_only=True)
class PartShape:
    """A model chunk: consecutive layers, maybe the head. All sizes are those of one rank.

    `shards` is the degree of sequence parallelism inside the stage: heads are sharded, and so are
    the tokens between them. Groups of `ulysses` shards have the same weights, groups of `context`
    shards also the same heads. These groups and the `replicas` share the optimizer's state, and,
    with `sharded_weights`, the matrices of blocks. `stages`: of the pipeline. exchange_pieces: see
    `Layout`.
    """

    model: Model
    layers: range
    head: bool
    element_bytes: int
    shards: int = 1
    ulysses: int = 1
    context: int = 1
    replicas: int = 1
    stages: int = 1
    sharded_weights: bool = False
    exchange_pieces: int = 1

    @property
    def weight_shards(self) -> int:
        """Ranks that divide the weights."""
        return self.shards // (self.ulysses * self.context)

    @property
    def weight_copies(self) -> int:
        """Ranks that have the same weights."""
        return self.ulysses * self.context * self.replicas

    @property
    def first(self) -> bool:
        """Whether the chunk has the first layer, and so the embedding."""
        return 0 in self.layers

    @property
    def elements(self) -> Elements:
        """Elements of the chunk's weights on one rank."""
        return _elements(self.model, self.layers, self.head, self.weight_shards)

    @property
    def gathered_elements(self) -> int:
        """Elements of a block's matrices, padded for the ranks that gather them; else 0."""
        if not self.sharded_weights:
            return 0
        block = _elements_by_place(self.model, self.weight_shards)[0]
        return padded(block.matrices, self.weight_copies)

    @property
    def parameters(self) -> int:
        """Elements of all weights."""
        return self.elements.vectors + self.elements.matrices

    @cached_property
    def saved_tensors(self) -> dict[str, SavedTensor]:
        """Those of a block, in the order of the forward, then the head's, if it is here."""
        saved_tensors = block_of(self.model).saved_tensors
        if self.head:
            saved_tensors += head_saved_tensors(self.model)
        return {tensor.name: tensor for tensor in saved_tensors}

    @cached_property
    def copies(self) -> dict[str, int]:
        """How many there are of each saved tensor: one per block, and one of the head's."""
        in_blocks = block_of(self.model).saved_tensors_by_name
        return {name: len(self.layers) if name in in_blocks else 1 for name in self.saved_tensors}

    def key(self, name: str, number: int) -> SavedTensorKey:
        """The key of a saved tensor in block `number`; the head's come after all blocks."""
        in_blocks = block_of(self.model).saved_tensors_by_name
        return (number if name in in_blocks else len(self.layers), name)

    @cached_property
    def offloadable(self) -> tuple[SavedTensor, ...]:
        """The saved tensors that may be offloaded, in the order of their offload."""
        names = (*block_of(self.model).offload_order, *HEAD_OFFLOAD_ORDER)
        return tuple(self.saved_tensors[name] for name in names if name in self.saved_tensors)

    @cached_property
    def _token_bytes(self) -> dict[str, int]:
        tensors = self.saved_tensors.values()
        return {tensor.name: tensor.bytes(1, self.element_bytes) for tensor in tensors}

    def saved_tensor_bytes(self, tensor: SavedTensor, tokens: int) -> int:
        """Bytes of one saved tensor of a subsequence of `tokens` tokens."""
        return -(-tokens * self._token_bytes[tensor.name] // self.shards)

    def kept_bytes(self, tokens: int, dropped: tuple[str, ...] = ()) -> int:
        """Bytes that a forward of `tokens` tokens saves for its backward (without K and V).

        Tensors named in `dropped` are recomputed, in all blocks of the chunk.
        """
        return self._bytes(tokens, dropped, offloadable=False)

    def offloadable_bytes(self, tokens: int, dropped: tuple[str, ...] = ()) -> int:
        """Bytes of all saved tensors that may be offloaded."""
        return self._bytes(tokens, dropped, offloadable=True)

    def _bytes(self, tokens: int, dropped: tuple[str, ...], *, offloadable: bool) -> int:
        """Each tensor of each shard is rounded up to whole bytes."""
        widths = self._widths_bytes(dropped, offloadable)
        if tokens % self.shards == 0:
            return tokens // self.shards * widths.total
        return sum(
            copies * -(-tokens * token_bytes // self.shards) for copies, token_bytes in widths.each
        )

    def _widths_bytes(self, dropped: tuple[str, ...], offloadable: bool) -> _Widths:
        key = dropped, offloadable
        if key not in self._known_widths:
            tensors = self.offloadable if offloadable else self.saved_tensors.values()
            each = tuple(
                (self.copies[tensor.name], self._token_bytes[tensor.name])
                for tensor in tensors
                if tensor.name not in dropped
            )
            total = sum(copies * token_bytes for copies, token_bytes in each)
            self._known_widths[key] = _Widths(each, total)
        return self._known_widths[key]

    @cached_property
    def _known_widths(self) -> dict[tuple[tuple[str, ...], bool], _Widths]:
        return {}

    def kv_bytes(self, tokens: int, element_bytes: int) -> int:
        """Bytes of K and V of all blocks, or of their gradients, by the width of an element."""
        per_layer = tokens * block_of(self.model).state_elements * element_bytes
        return -(-len(self.layers) * per_layer // self.shards)


class StateElements(NamedTuple):
    """One rank's elements of a stage's weights, padded so that copies can divide them.

    whole: in flat buffers that every copy has. whole_buffers: how many of them have elements.
    pieces: of sharded blocks. gathered: in the buffers of blocks in use.
    """

    whole: int
    whole_buffers: int
    pieces: int = 0
    gathered: int = 0


def state_elements(shapes: Sequence[PartShape]) -> StateElements:
    """Those of the chunks of a stage."""
    copies, layers = shapes[0].weight_copies, sum(len(shape.layers) for shape in shapes)
    vectors = sum(shape.elements.vectors for shape in shapes)
    matrices = sum(shape.elements.matrices for shape in shapes)
    gathered = shapes[0].gathered_elements
    if gathered:
        block = _elements_by_place(shapes[0].model, shapes[0].weight_shards)[0]
        matrices -= layers * block.matrices
    whole = [padded(elements, copies) for elements in (vectors, matrices)]
    return StateElements(
        whole=sum(whole),
        whole_buffers=sum(map(bool, whole)),
        pieces=layers * gathered // copies,
        gathered=min(GATHERED_BLOCKS, layers) * gathered,
    )


class SubsequenceCost(NamedTuple):
    """Nanoseconds of one subsequence on one stage."""

    forward_ns: int
    backward_ns: int
