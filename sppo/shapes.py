"""What a part of the model is to the memory model: parameters, units, temporaries. No torch.

All sizes are those of one rank of the stage that has the part.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import NamedTuple

from sppo.plan import UnitKey
from sppo.sharding import shard_shape, sharded_axis
from sppo.units import (
    OFFLOAD_ORDER,
    Unit,
    head_units,
    kv_units,
    layer_units,
    offloadable,
)
from sppo.workload import Model, weight_shapes

LOSS_TILE_TOKENS = 2048
"""Tokens whose logits exist at the same time."""

PREFIX_BLOCK_TOKENS = 1024
"""Keys per call of an attention backward over the prefix, at least: else as many as queries."""


class _Parameters(NamedTuple):
    vectors: int
    matrices: int
    whole: int


@lru_cache(maxsize=4096)
def _parameters(model: Model, layers: range, head: bool, shards: int) -> _Parameters:
    """One rank's elements in a part; `whole` is what every shard has all of."""
    vectors = matrices = whole = 0
    for name, shape in weight_shapes(model).items():
        if name.startswith("layers."):
            mine = int(name.split(".")[1]) in layers
        else:
            mine = 0 in layers if name.startswith("embedding") else head
        if not mine:
            continue
        size = math.prod(shard_shape(name, shape, shards))
        if len(shape) == 1:
            vectors += size
        else:
            matrices += size
        if sharded_axis(name) is None:
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
    def units(self) -> dict[str, Unit]:
        """The units of a block, in the order in which they are made, and the head's, if here."""
        units = layer_units(self.model)
        if self.head:
            units += head_units(self.model)
        return {unit.name: unit for unit in units}

    @cached_property
    def copies(self) -> dict[str, int]:
        """Tensors of each unit in this part: one per block, and the head's own."""
        return {name: 1 if name in self._head else len(self.layers) for name in self.units}

    @cached_property
    def _head(self) -> frozenset[str]:
        return frozenset(unit.name for unit in head_units(self.model))

    def key(self, name: str, number: int) -> UnitKey:
        """The key of the unit's tensor in block `number`; the head's comes after all blocks."""
        return (len(self.layers) if name in self._head else number, name)

    @cached_property
    def travelling(self) -> tuple[Unit, ...]:
        """The units that may travel, in the order in which they are sent."""
        units = self.units
        return tuple(
            units[name] for name in OFFLOAD_ORDER if name in units and offloadable(units[name])
        )

    @cached_property
    def _token_bytes(self) -> dict[str, int]:
        return {name: unit.bytes(1, self.element_bytes) for name, unit in self.units.items()}

    def unit_bytes(self, unit: Unit, tokens: int) -> int:
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

    def candidate_bytes(self, tokens: int, dropped: Collection[str] = ()) -> int:
        """Bytes of everything that may travel."""
        return sum(
            self.copies[unit.name] * self.unit_bytes(unit, tokens)
            for unit in self.travelling
            if unit.name not in dropped
        )

    def kv_bytes(self, tokens: int, element_bytes: int) -> int:
        per_layer = sum(unit.bytes(tokens, element_bytes) for unit in kv_units(self.model))
        return -(-len(self.layers) * per_layer // self.shards)

    def temporary_bytes(
        self,
        starts: Sequence[int],
        lengths: Sequence[int],
        dropped: Sequence[Collection[str]] | None = None,
        kv_block_tokens: int = 0,
    ) -> int:
        """Bound on what a backward (the larger half) allocates beside what is kept.

        `dropped` names the recomputed units by subsequence: those of one block exist again while
        its backward runs. Where K and V lie in the host tier (`kv_block_tokens`), a subsequence's
        own and their gradients are on the device too.
        """
        worst = 0
        for index, (start, length) in enumerate(zip(starts, lengths, strict=True)):
            remade = dropped[index] if dropped else ()
            worst = max(worst, self._backward_bytes(start, length, remade, kv_block_tokens))
        model, size = self.model, self.element_bytes
        if size < 4:  # a product that cannot be added in place to a float32 gradient
            widest = max(model.ffn, model.vocabulary if self.head else 0)
            worst += -(-size * model.hidden * widest // self.shards)
        return worst

    def _backward_bytes(
        self, start: int, length: int, remade: Collection[str], kv_block_tokens: int
    ) -> int:
        mlp, attention, loss = self.backward_halves(start, length, kv_block_tokens)
        if not self.layers:
            return loss
        late, early = self._remade_bytes(length, remade)
        return max(mlp + late, attention + early, loss)

    def backward_halves(
        self, start: int, length: int, kv_block_tokens: int
    ) -> tuple[int, int, int]:
        """The same of one block's MLP, of its attention, and of the loss, with nothing remade."""
        model, size = self.model, self.element_bytes
        hidden = length * model.hidden * size
        mlp = (2 * length * model.ffn * size) // self.shards + 2 * hidden
        keys = max(min(start, kv_block_tokens or PREFIX_BLOCK_TOKENS), length)
        prefix = 2 * keys * model.kv_width * size
        attention = prefix + 5 * hidden + 2 * length * model.kv_width * size
        if kv_block_tokens:
            attention += 2 * length * model.kv_width * (size + max(4, size))
        attention //= self.shards
        loss = 0
        tile = min(length, LOSS_TILE_TOKENS)
        if self.head:
            loss = 3 * tile * model.vocabulary * 4 // self.shards
        if self.shards > 1:  # what is gathered, what is summed, and the same in another order
            mlp += 2 * hidden // self.shards
            attention += 2 * hidden + 7 * hidden // self.shards
            loss += 2 * tile * model.hidden * size
        if self.shards > 1 and self.first:
            loss = max(loss, length * model.hidden * (size + max(4, size)))
        return mlp, attention, loss + 2 * hidden

    def _remade_bytes(self, length: int, remade: Collection[str]) -> tuple[int, int]:
        """Of one block, what is made again for its MLP's backward, and for its attention's.

        The activation is gone before the gradient of its input is made, so it is no more than that.
        Where the MLP's input is remade everything is, for both.
        """
        sizes = {name: self.unit_bytes(self.units[name], length) for name in remade}
        if "block.middle" in remade or self.model.activation != "gelu":
            return sum(sizes.values()), sum(sizes.values())
        mlp = {name for name in remade if name == "norm2.output" or name.startswith("mlp.")}
        late = sum(sizes[name] for name in mlp - {"mlp.activation"})
        return late, sum(size for name, size in sizes.items() if name not in mlp)
