"""The memory model of a stage: what is kept, what may travel, and everything else. No torch.

Kept activations, KV, dKV, model state and messages are exact. `temporary` bounds what one forward
or backward allocates and frees again; it is checked against counted peaks by a test.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from sppo.plan import StageMemory, UnitKey
from sppo.units import OFFLOAD_ORDER, head_units, kv_units, layer_units, offloadable
from sppo.workload import Model, weight_shapes

LOSS_TILE_TOKENS = 2048
"""Tokens whose logits exist at the same time."""

PREFIX_BLOCK_TOKENS = 1024
"""Keys per call of an attention backward over the prefix."""


@dataclass(frozen=True, kw_only=True)
class PartShape:
    """What the memory model needs to know of one part: consecutive layers of the model."""

    model: Model
    layers: range
    element_bytes: int

    @property
    def first(self) -> bool:
        return 0 in self.layers

    @property
    def last(self) -> bool:
        return self.model.layers - 1 in self.layers

    @property
    def parameters(self) -> int:
        total = 0
        for name, shape in weight_shapes(self.model).items():
            if name.startswith("layers."):
                mine = int(name.split(".")[1]) in self.layers
            else:
                mine = self.first if name.startswith("embedding") else self.last
            total += math.prod(shape) if mine else 0
        return total

    def kept_bytes(self, tokens: int) -> int:
        """Bytes that a forward of `tokens` tokens leaves for its backward (without K and V)."""
        size = self.element_bytes
        total = len(self.layers) * sum(unit.bytes(tokens, size) for unit in layer_units(self.model))
        if self.last:
            total += sum(unit.bytes(tokens, size) for unit in head_units(self.model))
        return total

    def candidates(self, tokens: int) -> Iterator[tuple[UnitKey, int]]:
        """The tensors that may travel, in the order in which they are sent, with their bytes."""
        units = {unit.name: unit for unit in layer_units(self.model) if offloadable(unit)}
        for name in OFFLOAD_ORDER:
            for layer in range(len(self.layers)):
                if name in units:
                    yield (layer, name), units[name].bytes(tokens, self.element_bytes)

    def choose_units(self, tokens: int, share: float) -> tuple[tuple[UnitKey, ...], int]:
        """Level 2: units of at least `share` of the candidates' bytes, to within one unit."""
        candidates = list(self.candidates(tokens))
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
        return len(self.layers) * sum(
            unit.bytes(tokens, element_bytes) for unit in kv_units(self.model)
        )

    def temporary_bytes(self, starts: Sequence[int], lengths: Sequence[int]) -> int:
        """Bound on what a backward (the larger half) allocates beside what is kept."""
        model, size = self.model, self.element_bytes
        worst = 0
        for start, length in zip(starts, lengths, strict=True):
            hidden = length * model.hidden * size
            mlp = 2 * length * model.ffn * size + 2 * hidden
            keys = max(min(start, PREFIX_BLOCK_TOKENS), length)
            prefix = 2 * keys * model.kv_width * size
            attention = prefix + 5 * hidden + 2 * length * model.kv_width * size
            loss = 3 * min(length, LOSS_TILE_TOKENS) * model.vocabulary * 4 if self.last else 0
            worst = max(worst, mlp, attention, loss + 2 * hidden)
        if size < 4:  # a product that cannot be added in place to a float32 gradient
            worst += size * model.hidden * max(model.ffn, model.vocabulary if self.last else 0)
        return worst


def state_bytes(parameters: int, element_bytes: int) -> tuple[int, int, int]:
    """Weights, gradients (float32) and AdamW state of a stage."""
    gradient_bytes = max(4, element_bytes)
    optimizer = parameters * 2 * gradient_bytes
    if element_bytes < 4:
        optimizer += parameters * 4
    return parameters * element_bytes, parameters * gradient_bytes, optimizer


def kept_peak(
    order: Sequence[tuple[int, int]],
    kept: Sequence[Sequence[int]],
    offloaded: Sequence[Sequence[int]],
) -> int:
    """Peak of a stage's kept activations when copies are synchronous, by order of instructions.

    `order` is `schedule.compute_order`; kept and offloaded are bytes by [virtual stage][index].
    """
    total = peak = 0
    for virtual, index in order:
        total += kept[virtual][index]
        peak = max(peak, total)
        total -= offloaded[virtual][index]
    for virtual, index in reversed(order):
        total += offloaded[virtual][index]
        peak = max(peak, total)
        total -= kept[virtual][index]
    return peak


def stage_memory(
    shapes: Sequence[PartShape],
    starts: Sequence[int],
    lengths: Sequence[int],
    *,
    messages_ahead: int,
    kept_peak_bytes: int,
    host_bytes: int,
) -> StageMemory:
    """The whole memory model of one stage, made of its parts, for one cut.

    `messages_ahead` receives are posted early; two messages may be on their way out.
    """
    tokens = sum(lengths)
    model, size = shapes[0].model, shapes[0].element_bytes
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
        staging=0 if alone else waiting * model.hidden * size,
        constants=rotary + 8 * (tokens + 1),
        temporary=max(shape.temporary_bytes(starts, lengths) for shape in shapes),
        host=host_bytes,
    )
