"""The memory model of a stage: model state, saved tensors, temporaries and host tier. No torch.

Model state, KV, dKV and the peak of saved tensors are exact. Temporaries (`temporary_peaks.py`) and
exchanges of MSP slices (`msp.py`) are bounds, mostly met exactly.
"""

from __future__ import annotations

from collections.abc import Sequence

from sppo.config.models import Model
from sppo.config.workload import Workload
from sppo.memory_model.live_bytes import ComputePeak
from sppo.memory_model.msp import MspRole, helper_bytes
from sppo.plan.blocks import block_of, gradient_element_bytes
from sppo.plan.parts import PartShape, state_elements
from sppo.plan.plan import StageMemory, Untracked

RING_SHARE = 32
"""The ring of blocks of hosted K and V takes at most a 32nd of the device."""

RING_TOKENS = (256, 65_536)
"""Least and most tokens of such a block."""

SCALARS_BYTES = 8 * 1024
"""Losses, AdamW's counts of steps, and other tensors of one element."""


def ring_bytes(model: Model, element_bytes: int, shards: int, block_tokens: int) -> int:
    """Bytes of two blocks of K, V, dK and dV on one rank."""
    return -(-2 * block_tokens * block_of(model).state_bytes(element_bytes) // shards)


def block_tokens(workload: Workload, shards: int) -> int:
    """Tokens of a block of hosted K and V: a power of two that the device has room for."""
    least, tokens = RING_TOKENS
    limit = workload.device_memory_bytes

    def fits(tokens: int) -> bool:
        size = RING_SHARE * ring_bytes(workload.model, workload.element_bytes, shards, tokens)
        return tokens <= workload.sequence_tokens and (limit is None or size <= limit)

    while tokens > least and not fits(tokens):
        tokens //= 2
    return tokens


def state_bytes(shapes: Sequence[PartShape]) -> tuple[int, int, int]:
    """Weights, gradients (float32) and AdamW state of a stage on one rank.

    Replicas share the state (ZeRO-1).
    """
    elements, size = state_elements(shapes), shapes[0].element_bytes
    wide = gradient_element_bytes(size)
    masters = 4 if size < 4 else 0
    share = elements // shapes[0].replicas
    return elements * size, elements * wide, share * (2 * wide + masters)


def _kv_bytes(shapes: Sequence[PartShape], tokens: int, kv_sets: int) -> tuple[int, int]:
    """KV of `kv_sets` sequences, and dKV of one."""
    size = shapes[0].element_bytes
    kv = kv_sets * sum(shape.kv_bytes(tokens, size) for shape in shapes)
    return kv, sum(shape.kv_bytes(tokens, gradient_element_bytes(size)) for shape in shapes)


def fixed_bytes(
    shapes: Sequence[PartShape], tokens: int, kv_block_tokens: int = 0, kv_sets: int = 1
) -> int:
    """Model state, KV and dKV of a stage for a sequence of `tokens` tokens, under any cut."""
    shape = shapes[0]
    ring = ring_bytes(shape.model, shape.element_bytes, shape.shards, kv_block_tokens)
    kv = 0 if kv_block_tokens else sum(_kv_bytes(shapes, tokens, kv_sets))
    return sum(state_bytes(shapes)) + ring + kv


def stage_memory(
    shapes: Sequence[PartShape],
    tokens: int,
    *,
    peak: ComputePeak,
    untracked: Untracked,
    kept_peak_bytes: int,
    host_bytes: int,
    kv_block_tokens: int = 0,
    kv_sets: int = 1,
    sequences: int = 1,
    msp_roles: Sequence[MspRole] = (),
) -> StageMemory:
    """The whole memory model of one stage, for sequences of `tokens` tokens.

    `peak` is its compute with the most bytes. With `kv_block_tokens` K, V, dK and dV lie in the
    host tier, and a ring of two such blocks on the device. `kv_sets` sequences have K and V at the
    same time; dK and dV are one sequence's. A helper has room for the weights and gradients of one
    chunk, and for KV and dKV up to the end of the split.
    """
    model, size, shards = shapes[0].model, shapes[0].element_bytes, shapes[0].shards
    weights, gradients, optimizer = state_bytes(shapes)
    kv, dkv = _kv_bytes(shapes, tokens, kv_sets)
    helper = helper_bytes(msp_roles)
    kv, dkv = kv + helper[2], dkv + helper[3]
    positions = tokens * block_of(model).position_numbers * max(4, size)
    return StageMemory(
        weights=weights + helper[0],
        gradients=gradients + helper[1],
        optimizer=optimizer,
        kv=0 if kv_block_tokens else kv,
        dkv=0 if kv_block_tokens else dkv,
        kept=peak.saved,
        kept_peak=kept_peak_bytes,
        staging=peak.messages + ring_bytes(model, size, shards, kv_block_tokens),
        constants=positions + 8 * sequences * (tokens + 1) + SCALARS_BYTES,
        temporary=peak.temporary,
        host=host_bytes,
        kv_host=kv + dkv if kv_block_tokens else 0,
        untracked=untracked,
    )
