"""Sizes of host slots, for the planner and the arena alike. No torch."""

from __future__ import annotations

ALIGNMENT_BYTES = 256


def slot_bytes(size_bytes: int) -> int:
    """A slot's size: the tensor's bytes rounded up to the arena's alignment."""
    return -(-size_bytes // ALIGNMENT_BYTES) * ALIGNMENT_BYTES
