"""The memory model of a stage: model state, saved tensors, temporaries and host tier. No torch.

Model state, KV, dKV and the peak of saved tensors are exact. Temporaries (`temporary_peaks.py`) and
exchanges of MSP slices (`msp.py`) are bounds, mostly met exactly.
"""

from __future__ import annotations

from collections.abc import Sequence

from sppo.config.models import Model
from sppo.config.workload import Workload
from sppo.plan.blocks import block_of, gradient_element_bytes
from sppo.plan.blocks.attention import ring_slots
from sppo.plan.layout import Layout
from sppo.plan.parts import PartShape, state_elements

RING_SHARE = 32
"""The ring of blocks of hosted K and V takes at most a 32nd of the device."""

RING_TOKENS = (256, 65_536)
"""Least and most tokens of such a block."""

SCALARS_BYTES = 8 * 1024
"""Losses, AdamW's counts of steps, and other tensors of one element."""


def ring_bytes(
    model: Model, element_bytes: int, shards: int, block_tokens: int, device: str
) -> int:
    """Bytes of the blocks of K, V, dK and dV on one rank."""
    return -(
        -ring_slots(device) * block_tokens * block_of(model).state_bytes(element_bytes) // shards
    )


def block_tokens(workload: Workload, shards: int) -> int:
    """Tokens of a block of hosted K and V: a power of two that the device has room for."""
    least, tokens = RING_TOKENS
    limit = workload.device_memory_bytes

    def fits(tokens: int) -> bool:
        size = RING_SHARE * ring_bytes(
            workload.model, workload.element_bytes, shards, tokens, workload.cluster.device
        )
        return tokens <= workload.sequence_tokens and (limit is None or size <= limit)

    while tokens > least and not fits(tokens):
        tokens //= 2
    return tokens


def state_bytes(shapes: Sequence[PartShape]) -> tuple[int, int, int]:
    """Weights, gradients (float32) and AdamW state of a stage on one rank.

    Ranks with the same weights share the state (ZeRO-1), or that of blocks and their weights and
    gradients too (ZeRO-3).
    """
    elements, size = state_elements(shapes), shapes[0].element_bytes
    wide = gradient_element_bytes(size)
    masters = 4 if size < 4 else 0
    held = elements.whole + elements.pieces + elements.gathered
    share = elements.whole // shapes[0].weight_copies + elements.pieces
    return held * size, held * wide, share * (2 * wide + masters)


def kv_bytes(shapes: Sequence[PartShape], layout: Layout, stage: int) -> tuple[int, int]:
    """KV of the sequences that have them at the same time, and dKV of one; `shapes`: its chunks.

    dKV are sums for all positions but those of the last subsequence (`Layout.summed_tokens`). On
    the device one layer at a time has those of the last subsequence; with context parallelism they
    are temporaries.
    """
    size, tokens = shapes[0].element_bytes, sum(layout.lengths_tokens)
    wide = gradient_element_bytes(size)
    kv = layout.kv_sets * sum(shape.kv_bytes(tokens, size) for shape in shapes)
    summed = [layout.summed_tokens(part) for part in layout.own_parts(stage)]
    dkv = sum(map(PartShape.kv_bytes, shapes, summed, [wide] * len(shapes)))
    if not layout.kv_block_tokens and layout.context_parallel == 1:
        elements = (tokens - min(summed)) * block_of(shapes[0].model).state_elements
        dkv += -(-elements * wide // shapes[0].shards)
    return kv, dkv


def fixed_bytes(shapes: Sequence[PartShape], layout: Layout, stage: int, device: str) -> int:
    """Model state, KV and dKV of a stage."""
    shape, hosted = shapes[0], layout.kv_block_tokens
    ring = ring_bytes(shape.model, shape.element_bytes, shape.shards, hosted, device)
    kv = 0 if hosted else sum(kv_bytes(shapes, layout, stage))
    return sum(state_bytes(shapes)) + ring + kv


def constant_bytes(workload: Workload) -> int:
    """Positions of a sequence, token ids of a step, and scalars."""
    tokens, size = workload.sequence_tokens, workload.element_bytes
    positions = tokens * block_of(workload.model).position_numbers * gradient_element_bytes(size)
    return positions + 8 * workload.sequences_per_step * (tokens + 1) + SCALARS_BYTES
