"""The memory model of a stage: what is kept, what may travel, and everything else. No torch.

Kept activations, KV, dKV, model state and messages are exact. `temporary` bounds what one forward
or backward allocates and frees again; it is checked against counted peaks by a test.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

from sppo.plan import StageMemory, UnitKey
from sppo.units import OFFLOAD_ORDER, Unit, head_units, kv_units, layer_units, offloadable
from sppo.workload import Model, weight_shapes

LOSS_TILE_TOKENS = 2048
"""Tokens whose logits exist at the same time."""

PREFIX_BLOCK_TOKENS = 1024
"""Keys per call of an attention backward over the prefix."""


@dataclass(frozen=True, kw_only=True)
class PartShape:
    """What the memory model needs to know of one part: consecutive layers of the model.

    `shards` is the degree of sequence parallelism inside the stage: weights and heads are sharded,
    and so are the tokens between them. All sizes are those of one rank.
    """

    model: Model
    layers: range
    element_bytes: int
    shards: int = 1

    @property
    def first(self) -> bool:
        return 0 in self.layers

    @property
    def last(self) -> bool:
        return self.model.layers - 1 in self.layers

    @cached_property
    def parameters(self) -> int:
        total = 0
        for name, shape in weight_shapes(self.model).items():
            if name.startswith("layers."):
                mine = int(name.split(".")[1]) in self.layers
            else:
                mine = self.first if name.startswith("embedding") else self.last
            total += math.prod(shape) if mine else 0
        return -(-total // self.shards)

    @cached_property
    def units(self) -> dict[str, Unit]:
        """The units of a block, in the order in which they are made."""
        return {unit.name: unit for unit in layer_units(self.model)}

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
        """Bytes of one block's unit for a subsequence of `tokens` tokens."""
        return -(-tokens * self._token_bytes[unit.name] // self.shards)

    def kept_bytes(self, tokens: int, dropped: Collection[str] = ()) -> int:
        """Bytes that a forward of `tokens` tokens leaves for its backward (without K and V).

        Units named in `dropped` are not kept, in any block of the part.
        """
        total = len(self.layers) * sum(
            -(-tokens * size // self.shards)
            for name, size in self._token_bytes.items()
            if name not in dropped
        )
        if self.last:
            total += -(-tokens * self._head_token_bytes // self.shards)
        return total

    @cached_property
    def _head_token_bytes(self) -> int:
        return sum(unit.bytes(1, self.element_bytes) for unit in head_units(self.model))

    def candidates(
        self, tokens: int, dropped: Collection[str] = ()
    ) -> Iterator[tuple[UnitKey, int]]:
        """The tensors that may travel, in the order in which they are sent, with their bytes."""
        for unit in self.travelling:
            if unit.name not in dropped:
                size = self.unit_bytes(unit, tokens)
                for layer in range(len(self.layers)):
                    yield (layer, unit.name), size

    def choose_units(
        self, tokens: int, share: float, dropped: Collection[str] = ()
    ) -> tuple[tuple[UnitKey, ...], int]:
        """Level 2: units of at least `share` of the candidates' bytes, to within one unit."""
        candidates = list(self.candidates(tokens, dropped))
        wanted = share * sum(size for _, size in candidates)
        chosen: list[UnitKey] = []
        total = 0
        for key, size in candidates:
            if total >= wanted:
                break
            chosen.append(key)
            total += size
        return tuple(chosen), total

    def kv_bytes(self, tokens: int, element_bytes: int) -> int:
        per_layer = sum(unit.bytes(tokens, element_bytes) for unit in kv_units(self.model))
        return -(-len(self.layers) * per_layer // self.shards)

    def temporary_bytes(
        self,
        starts: Sequence[int],
        lengths: Sequence[int],
        dropped: Sequence[Collection[str]] | None = None,
    ) -> int:
        """Bound on what a backward (the larger half) allocates beside what is kept.

        `dropped` names the recomputed units by subsequence: those of one block exist again while
        its backward runs.
        """
        worst = 0
        for index, (start, length) in enumerate(zip(starts, lengths, strict=True)):
            remade = dropped[index] if dropped else ()
            worst = max(worst, self._backward_bytes(start, length, remade))
        model, size = self.model, self.element_bytes
        if size < 4:  # a product that cannot be added in place to a float32 gradient
            widest = max(model.ffn, model.vocabulary if self.last else 0)
            worst += -(-size * model.hidden * widest // self.shards)
        return worst

    def _backward_bytes(self, start: int, length: int, remade: Collection[str]) -> int:
        model, size = self.model, self.element_bytes
        hidden = length * model.hidden * size
        mlp = (2 * length * model.ffn * size) // self.shards + 2 * hidden
        keys = max(min(start, PREFIX_BLOCK_TOKENS), length)
        prefix = 2 * keys * model.kv_width * size
        attention = prefix + 5 * hidden + 2 * length * model.kv_width * size
        attention = attention // self.shards + (hidden if self.shards > 1 else 0)
        loss = 0
        if self.last:
            loss = 3 * min(length, LOSS_TILE_TOKENS) * model.vocabulary * 4 // self.shards
        again = sum(self.unit_bytes(self.units[name], length) for name in remade)
        return max(mlp + again, attention + again, loss + 2 * hidden)


def state_bytes(parameters: int, element_bytes: int) -> tuple[int, int, int]:
    """Weights, gradients (float32) and AdamW state of a stage."""
    gradient_bytes = max(4, element_bytes)
    optimizer = parameters * 2 * gradient_bytes
    if element_bytes < 4:
        optimizer += parameters * 4
    return parameters * element_bytes, parameters * gradient_bytes, optimizer


def fixed_bytes(shapes: Sequence[PartShape], tokens: int) -> int:
    """Model state, KV and dKV of a stage: what a sequence of `tokens` takes under any cut."""
    size = shapes[0].element_bytes
    return sum(
        sum(state_bytes(shape.parameters, size))
        + shape.kv_bytes(tokens, size)
        + shape.kv_bytes(tokens, max(4, size))
        for shape in shapes
    )


def kept_peak(
    order: Sequence[tuple[int, int]],
    kept: Sequence[Sequence[int]],
    offloaded: Sequence[Sequence[int]],
    *,
    overlapped: bool = False,
) -> int:
    """Peak of a stage's kept activations, by order of instructions.

    `order` is `schedule.compute_order`; kept and offloaded are bytes by [virtual stage][index].
    At a compute everything up to it is kept, less what has left; the backward passes the same
    states in reverse. Where copies overlap, one more subsequence is still on its way out, or
    already on its way back.
    """
    moves = [offloaded[virtual][index] for virtual, index in order]
    on_its_way = 1 if overlapped else 0
    total = peak = 0
    for position, (virtual, index) in enumerate(order):
        total += kept[virtual][index]
        gone = position - 1 - on_its_way
        if gone >= 0:
            total -= moves[gone]
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
) -> StageMemory:
    """The whole memory model of one stage, made of its parts, for one cut.

    `messages_ahead` receives are posted early; two messages may be on their way out. `dropped`
    names the recomputed units by [part][subsequence].
    """
    tokens = sum(lengths)
    model, size, shards = shapes[0].model, shapes[0].element_bytes, shapes[0].shards
    parameters = sum(shape.parameters for shape in shapes)
    weights, gradients, optimizer = state_bytes(parameters, size)
    waiting = sum(sorted(lengths)[-(messages_ahead + 1) :]) + 2 * max(lengths)
    alone = all(shape.first and shape.last for shape in shapes)
    rotary = tokens * model.head_width * max(4, size)
    return StageMemory(
        weights=weights,
        gradients=gradients,
        optimizer=optimizer,
        kv=sum(shape.kv_bytes(tokens, size) for shape in shapes),
        dkv=sum(shape.kv_bytes(tokens, max(4, size)) for shape in shapes),
        kept_peak=kept_peak_bytes,
        staging=0 if alone else -(-waiting * model.hidden * size // shards),
        constants=rotary + 8 * (tokens + 1),
        temporary=max(
            shape.temporary_bytes(starts, lengths, dropped[part] if dropped else None)
            for part, shape in enumerate(shapes)
        ),
        host=host_bytes,
    )
