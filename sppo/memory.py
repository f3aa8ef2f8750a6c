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

ADAM_STATE_BYTES = 8
"""Two float32 moments per parameter; a bfloat16 model adds a float32 master copy."""


@dataclass(frozen=True, kw_only=True)
class StageShape:
    """What the memory model needs to know of a stage."""

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
            prefix = 2 * max(start, length) * model.kv_width * size
            attention = prefix + 5 * hidden + 2 * length * model.kv_width * size
            worst = max(worst, mlp, attention)
        return worst

    def state_bytes(self) -> tuple[int, int, int]:
        """Weights, gradients (float32) and optimizer state."""
        gradient_bytes = max(4, self.element_bytes)
        optimizer = self.parameters * 2 * gradient_bytes
        if self.element_bytes < 4:
            optimizer += self.parameters * 4
        return (
            self.parameters * self.element_bytes,
            self.parameters * gradient_bytes,
            optimizer,
        )


def kept_peak(kept: Sequence[int], offloaded: Sequence[int], sequences: int = 1) -> int:
    """Peak of kept activations when copies are synchronous: by the order of the instructions."""
    total = peak = 0
    for size, gone in zip(kept, offloaded, strict=True):
        total += size
        peak = max(peak, total)
        total -= gone
    for size, gone in zip(reversed(kept), reversed(offloaded), strict=True):
        total += gone
        peak = max(peak, total)
        total -= size
    return peak


def stage_memory(
    shape: StageShape,
    starts: Sequence[int],
    lengths: Sequence[int],
    *,
    kept_peak_bytes: int,
    host_bytes: int,
) -> StageMemory:
    """The whole memory model of one stage for one cut."""
    tokens = sum(lengths)
    weights, gradients, optimizer = shape.state_bytes()
    accumulator_bytes = max(4, shape.element_bytes)
    message = max(lengths) * shape.model.hidden * shape.element_bytes
    neighbours = (0 if shape.first else 1) + (0 if shape.last else 1)
    rotary = tokens * shape.model.head_width * shape.element_bytes
    return StageMemory(
        weights=weights,
        gradients=gradients,
        optimizer=optimizer,
        kv=shape.kv_bytes(tokens, shape.element_bytes),
        dkv=shape.kv_bytes(tokens, accumulator_bytes),
        kept_peak=kept_peak_bytes,
        staging=3 * message * neighbours,
        constants=rotary + 8 * (tokens + 1),
        temporary=shape.temporary_bytes(starts, lengths),
        host=host_bytes,
    )
