"""What a part of the model is to the memory model: its parameters and units. No torch.

All sizes are those of one rank of the stage that has the part.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import NamedTuple

from sppo.config.models import Model
from sppo.plan.blocks import block_of
from sppo.plan.saved_tensors import (
    HEAD_OFFLOAD_ORDER,
    SavedTensor,
    SavedTensorKey,
    head_saved_tensors,
)
from sppo.plan.weights import canonical_weights


class _Parameters(NamedTuple):
    vectors: int
    matrices: int
    whole: int


@lru_cache(maxsize=4096)
def _parameters(model: Model, layers: range, head: bool, shards: int) -> _Parameters:
    """One rank's elements in a part; `whole` is what every shard has all of."""
    vectors = matrices = whole = 0
    for name, weight in canonical_weights(model).items():
        if name.startswith("layers."):
            mine = int(name.split(".")[1]) in layers
        else:
            mine = 0 in layers if name.startswith("embedding") else head
        if not mine:
            continue
        size = math.prod(weight.shard_shape(shards))
        if len(weight.shape) == 1:
            vectors += size
        else:
            matrices += size
        if weight.sharded_axis is None:
            whole += size
    return _Parameters(vectors, matrices, whole)


@dataclass(frozen=True, kw_only=True)
class PartShape:
    """What the memory model needs to know of one part: consecutive layers of the model.

    `shards` is the degree of sequence parallelism inside the stage: weights and heads are sharded,
    and so are the tokens between them. `replicas` share the optimizer's state. All sizes are those
    of one rank.
    """

    model: Model
    layers: range
    head: bool
    element_bytes: int
    shards: int = 1
    replicas: int = 1

    @property
    def first(self) -> bool:
        return 0 in self.layers

    @property
    def parameters_by_axes(self) -> tuple[int, int]:
        """One rank's elements of vectors, and of matrices."""
        found = _parameters(self.model, self.layers, self.head, self.shards)
        return found.vectors, found.matrices

    @property
    def parameters(self) -> int:
        return sum(self.parameters_by_axes)

    @property
    def whole_parameters(self) -> int:
        """Elements of what every shard has all of: their gradients are summed over the shards."""
        return _parameters(self.model, self.layers, self.head, self.shards).whole

    @cached_property
    def saved_tensors(self) -> dict[str, SavedTensor]:
        """The units of a block, in the order in which they are made, and the head's, if here."""
        units = block_of(self.model).saved_tensors
        if self.head:
            units += head_saved_tensors(self.model)
        return {unit.name: unit for unit in units}

    @cached_property
    def copies(self) -> dict[str, int]:
        """Tensors of each unit in this part: one per block, and the head's own."""
        return {name: 1 if name in self._head else len(self.layers) for name in self.saved_tensors}

    @cached_property
    def _head(self) -> frozenset[str]:
        return frozenset(unit.name for unit in head_saved_tensors(self.model))

    def key(self, name: str, number: int) -> SavedTensorKey:
        """The key of the unit's tensor in block `number`; the head's comes after all blocks."""
        return (len(self.layers) if name in self._head else number, name)

    @cached_property
    def offloadable(self) -> tuple[SavedTensor, ...]:
        """The units that may travel, in the order in which they are sent."""
        names = (*block_of(self.model).offload_order, *HEAD_OFFLOAD_ORDER)
        return tuple(self.saved_tensors[name] for name in names if name in self.saved_tensors)

    @cached_property
    def _token_bytes(self) -> dict[str, int]:
        return {
            name: unit.bytes(1, self.element_bytes) for name, unit in self.saved_tensors.items()
        }

    def saved_tensor_bytes(self, unit: SavedTensor, tokens: int) -> int:
        """Bytes of one tensor of the unit for a subsequence of `tokens` tokens."""
        return -(-tokens * self._token_bytes[unit.name] // self.shards)

    def kept_bytes(self, tokens: int, dropped: Collection[str] = ()) -> int:
        """Bytes that a forward of `tokens` tokens leaves for its backward (without K and V).

        Units named in `dropped` are not kept, in any block of the part.
        """
        return sum(
            self.copies[name] * -(-tokens * size // self.shards)
            for name, size in self._token_bytes.items()
            if name not in dropped
        )

    def offloadable_bytes(self, tokens: int, dropped: Collection[str] = ()) -> int:
        """Bytes of everything that may travel."""
        return sum(
            self.copies[unit.name] * self.saved_tensor_bytes(unit, tokens)
            for unit in self.offloadable
            if unit.name not in dropped
        )

    def kv_bytes(self, tokens: int, element_bytes: int) -> int:
        """Bytes of the state of all blocks, or of its gradients, by the width of an element."""
        per_layer = tokens * block_of(self.model).state_elements * element_bytes
        return -(-len(self.layers) * per_layer // self.shards)


def state_elements(shapes: Sequence[PartShape]) -> int:
    """Elements of a stage's flat buffers on one rank, padded so that replicas can divide them."""
    replicas = shapes[0].replicas
    by_axes = zip(*(shape.parameters_by_axes for shape in shapes), strict=True)
    return sum(-(-sum(elements) // replicas) * replicas for elements in by_axes)


@dataclass(frozen=True, kw_only=True)
class SubsequenceCost:
    """Nanoseconds of one subsequence on one stage."""

    forward_ns: int
    backward_ns: int
