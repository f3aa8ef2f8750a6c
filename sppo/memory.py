"""The memory model of a stage: what is kept, what may travel, and everything else. No torch.

Kept activations, KV, dKV, model state and messages are exact. `temporary` bounds what one forward
or backward allocates and frees again; it is checked against counted peaks by a test.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import NamedTuple

from sppo.orders import Compute, residency
from sppo.plan import StageMemory, UnitKey
from sppo.sharding import shard_shape, sharded_axis
from sppo.units import (
    OFFLOAD_ORDER,
    Unit,
    head_units,
    kv_units,
    layer_units,
    offloadable,
)
from sppo.workload import Model, Workload, weight_shapes

LOSS_TILE_TOKENS = 2048
"""Tokens whose logits exist at the same time."""

PREFIX_BLOCK_TOKENS = 1024
"""Keys per call of an attention backward over the prefix."""

RING_SHARE = 32
"""K and V in the host tier are brought in blocks that take a 32nd of the device, all in all."""

RING_TOKENS = (256, 16_384)
"""Least and most tokens of such a block."""


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


@dataclass(frozen=True, kw_only=True)
class Loan:
    """A part that one rank lends or borrows (`borrowed`), for positions [start, end).

    `longest` is its longest subsequence, which `ranks` compute; `recompute` is what a helper's
    slices do not keep.
    """

    shape: PartShape
    borrowed: bool
    start: int
    end: int
    longest: int
    ranks: int
    recompute: tuple[str, ...]

    def message_bytes(self) -> int:
        """Bound on what is on its way at a time: weights or gradients, and what slices exchange.

        K, V, dK and dV of earlier positions travel from where they lie, to where they will lie or
        through room for two heads.
        """
        shape, wide = self.shape, max(4, self.shape.element_bytes)
        layers, ranks = len(shape.layers), self.ranks
        heads = shape.model.kv_heads // shape.shards
        every = shape.kv_bytes(self.longest, wide)
        one_more = -(-every * (ranks - 1) // (ranks * layers))
        exchanged = max(every, (every * (ranks - 1)) // ranks + one_more)
        rooms = shape.kv_bytes(self.start, wide) // (layers * heads)
        return shape.parameters * wide + exchanged + rooms


def borrowed_bytes(loans: Sequence[Loan]) -> tuple[int, int, int, int]:
    """Room on a rank for what it borrows: weights and gradients of one part, K and V, dK and dV."""
    borrowed = [loan for loan in loans if loan.borrowed]
    if not borrowed:
        return 0, 0, 0, 0
    size = borrowed[0].shape.element_bytes
    wide = max(4, size)
    parameters = max(loan.shape.parameters for loan in borrowed)
    kv = sum(loan.shape.kv_bytes(loan.end, size) for loan in borrowed)
    dkv = sum(loan.shape.kv_bytes(loan.end, wide) for loan in borrowed)
    return parameters * size, parameters * wide, kv, dkv


def ring_bytes(model: Model, element_bytes: int, shards: int, block_tokens: int) -> int:
    """Two blocks of K, V, dK and dV on one rank."""
    per_token = 2 * model.kv_width * (element_bytes + max(4, element_bytes))
    return -(-2 * block_tokens * per_token // shards)


def block_tokens(workload: Workload, shards: int) -> int:
    """Tokens of a block of hosted K and V: a power of two that the device has room for."""
    least, tokens = RING_TOKENS
    limit = workload.device_memory_bytes
    size = workload.element_bytes
    while tokens > max(least, workload.sequence_tokens):
        tokens //= 2
    while limit is not None and tokens > least:
        if RING_SHARE * ring_bytes(workload.model, size, shards, tokens) <= limit:
            break
        tokens //= 2
    return tokens


def state_elements(shapes: Sequence[PartShape]) -> int:
    """Elements of a stage's flat buffers on one rank, padded so that replicas can divide them."""
    replicas = shapes[0].replicas
    by_axes = zip(*(shape.parameters_by_axes for shape in shapes), strict=True)
    return sum(-(-sum(elements) // replicas) * replicas for elements in by_axes)


def state_bytes(shapes: Sequence[PartShape]) -> tuple[int, int, int]:
    """Weights, gradients (float32) and AdamW state of a stage on one rank.

    Replicas share the state (ZeRO-1).
    """
    elements, size = state_elements(shapes), shapes[0].element_bytes
    wide = max(4, size)
    masters = 4 if size < 4 else 0
    share = elements // shapes[0].replicas
    return elements * size, elements * wide, share * (2 * wide + masters)


def fixed_bytes(
    shapes: Sequence[PartShape], tokens: int, kv_block_tokens: int = 0, kv_sets: int = 1
) -> int:
    """Model state, KV and dKV of a stage: what a sequence of `tokens` takes under any cut."""
    size = shapes[0].element_bytes
    state = sum(state_bytes(shapes))
    if kv_block_tokens:
        return state + ring_bytes(shapes[0].model, size, shapes[0].shards, kv_block_tokens)
    kv = kv_sets * sum(shape.kv_bytes(tokens, size) for shape in shapes)
    return state + kv + sum(shape.kv_bytes(tokens, max(4, size)) for shape in shapes)


def kept_peak(
    computes: Sequence[Compute],
    kept: Sequence[Sequence[int]],
    offloaded: Sequence[Sequence[int]],
    *,
    overlapped: bool = False,
) -> int:
    """Peak of a stage's kept activations over its computes.

    kept and offloaded are bytes by [virtual stage][index]. At a compute everything made before and
    not yet used is kept, less what has left: see `orders.residency`.
    """
    total = peak = 0
    for changes in residency(computes, overlapped=overlapped):
        for change in changes:
            total += change.kept * kept[change.virtual][change.subsequence]
            total -= change.away * offloaded[change.virtual][change.subsequence]
        peak = max(peak, total)
    return peak


def stage_memory(
    shapes: Sequence[PartShape],
    starts: Sequence[int],
    lengths: Sequence[int],
    *,
    messages_ahead: int,
    kept_peak_bytes: int,
    host_bytes: int,
    dropped: Sequence[Sequence[Collection[str]]] | None = None,
    kv_block_tokens: int = 0,
    kv_sets: int = 1,
    loans: Sequence[Loan] = (),
) -> StageMemory:
    """The whole memory model of one stage, made of its parts, for one cut.

    `messages_ahead` receives are posted early; two messages may be on their way out. `dropped`
    names the recomputed units by [part][subsequence]. With `kv_block_tokens` K, V, dK and dV lie
    in the host tier, and a ring of two such blocks on the device. `kv_sets` sequences have K and V
    at the same time; dK and dV are one sequence's. Of the parts it borrows a rank has room for the
    weights and gradients of one, and for K, V, dK and dV of the lent positions and all before.
    """
    tokens = sum(lengths)
    model, size, shards = shapes[0].model, shapes[0].element_bytes, shapes[0].shards
    weights, gradients, optimizer = state_bytes(shapes)
    waiting = sum(sorted(lengths)[-(messages_ahead + 1) :]) + 2 * max(lengths)
    alone = all(shape.first and shape.head for shape in shapes)
    kv = kv_sets * sum(shape.kv_bytes(tokens, size) for shape in shapes)
    dkv = sum(shape.kv_bytes(tokens, max(4, size)) for shape in shapes)
    staging = 0 if alone else -(-waiting * model.hidden * size // shards)
    if kv_block_tokens:
        staging += ring_bytes(model, size, shards, kv_block_tokens)
    staging += max((loan.message_bytes() for loan in loans), default=0)
    lent = borrowed_bytes(loans)
    weights, gradients, kv, dkv = (
        weights + lent[0],
        gradients + lent[1],
        kv + lent[2],
        dkv + lent[3],
    )
    rotary = tokens * model.head_width * max(4, size)
    return StageMemory(
        weights=weights,
        gradients=gradients,
        optimizer=optimizer,
        kv=0 if kv_block_tokens else kv,
        dkv=0 if kv_block_tokens else dkv,
        kept_peak=kept_peak_bytes,
        staging=staging,
        constants=rotary + 8 * (tokens + 1),
        temporary=max(
            shape.temporary_bytes(
                starts, lengths, dropped[part] if dropped else None, kv_block_tokens
            )
            for part, shape in enumerate(shapes)
        ),
        host=host_bytes,
        kv_host=kv + dkv if kv_block_tokens else 0,
    )
