"""The host tier: one arena per rank, taken once and sized by the plan; a stack of slots.

Subsequences go out in forward order and come back in reverse, so slots are given and taken back
like plates. On CUDA the arena is page-locked and copies run on a stream of their own; on a CPU it
is a shared mapping, which lies outside the device's enforced limit, and copies are synchronous.
"""

from __future__ import annotations

import mmap
from dataclasses import dataclass

import torch
from torch import Tensor

from sppo.errors import HostTierFull
from sppo.hostslots import slot_bytes


@dataclass(frozen=True, kw_only=True)
class Slot:
    """Where a tensor lies in the arena."""

    offset_bytes: int
    size_bytes: int


class HostArena:
    """`capacity_bytes` of host memory; raises HostTierFull when a slot does not fit."""

    def __init__(self, capacity_bytes: int, device: torch.device) -> None:
        self.capacity_bytes = capacity_bytes
        self.used_bytes = 0
        self.peak_bytes = 0
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self.memory = self._take(capacity_bytes, device)

    @staticmethod
    def _take(size_bytes: int, device: torch.device) -> Tensor:
        if size_bytes == 0:
            return torch.empty(0, dtype=torch.uint8)
        try:
            if device.type == "cuda":
                return torch.empty(size_bytes, dtype=torch.uint8, pin_memory=True)
            mapping = torch.frombuffer(mmap.mmap(-1, size_bytes), dtype=torch.uint8)
        except (OSError, RuntimeError) as error:
            raise HostTierFull(
                f"the host refused an arena of {size_bytes} bytes ({error}); lower "
                "host_memory_bytes or use more ranks"
            ) from error
        mapping.zero_()  # touch every page now, not inside a timed step
        return mapping

    def _view(self, slot: Slot) -> Tensor:
        return self.memory[slot.offset_bytes : slot.offset_bytes + slot.size_bytes]

    def store(self, data: Tensor) -> Slot:
        """Copy `data` (uint8, one axis, on the device) into a new slot on top of the stack."""
        needed = slot_bytes(data.numel())
        if self.used_bytes + needed > self.capacity_bytes:
            raise HostTierFull(
                f"the host tier holds {self.capacity_bytes} bytes and {self.used_bytes} are in "
                f"use: {needed} more do not fit; raise host_memory_bytes"
            )
        slot = Slot(offset_bytes=self.used_bytes, size_bytes=data.numel())
        self.used_bytes += needed
        self.peak_bytes = max(self.peak_bytes, self.used_bytes)
        if self._stream is None:
            self._view(slot).copy_(data)
            return slot
        self._stream.wait_stream(torch.cuda.current_stream(data.device))
        with torch.cuda.stream(self._stream):
            self._view(slot).copy_(data, non_blocking=True)
        data.record_stream(self._stream)  # the allocator must not reuse it before the copy is done
        return slot

    def load(self, slot: Slot, into: Tensor) -> torch.cuda.Event | None:
        """Copy the topmost slot back to the device and take it off the stack.

        On CUDA the copy is queued; the compute stream must wait for the event that is returned.
        """
        assert slot.offset_bytes + slot_bytes(slot.size_bytes) == self.used_bytes, "not the top"
        # A later store() into this slot is queued on the same stream, so it waits for this read.
        self.used_bytes = slot.offset_bytes
        if self._stream is None:
            into.copy_(self._view(slot))
            return None
        self._stream.wait_stream(torch.cuda.current_stream(into.device))
        with torch.cuda.stream(self._stream):
            into.copy_(self._view(slot), non_blocking=True)
            arrived = torch.cuda.Event()
            arrived.record(self._stream)
        into.record_stream(self._stream)
        return arrived
