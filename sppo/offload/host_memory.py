"""The host tier: one arena per rank, taken once and sized by the plan; a stack of slots.

Subsequences go out in forward order and come back in reverse, so slots are given and taken back
like plates. The arena is a shared mapping: on a CPU it lies outside the device's enforced limit
and copies are synchronous; for CUDA its pages are locked and each direction of copies has a stream.
"""

from __future__ import annotations

import mmap
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from sppo.config.errors import HostTierFull
from sppo.config.sizes import slot_bytes


class PageLock(Protocol):
    """CUDA's runtime, as far as it locks pages; both return 0 if all is well."""

    def cudaHostRegister(self, address: int, size_bytes: int, flags: int) -> Any: ...

    def cudaHostUnregister(self, address: int) -> Any: ...


class _LockedMapping(mmap.mmap):
    """Shared memory whose pages are locked for as long as it is mapped."""

    runtime: PageLock | None = None
    address = 0

    def __del__(self) -> None:
        if self.runtime is not None:
            self.runtime.cudaHostUnregister(self.address)


def host_memory(size_bytes: int, device: torch.device, runtime: PageLock | None = None) -> Tensor:
    """uint8 [size_bytes] of the host tier: a shared mapping, its pages locked for CUDA.

    To the byte, where torch's own pinned memory takes the next power of two; on the NUMA node of
    the process. Raises HostTierFull if the host refuses.
    """
    if size_bytes == 0:
        return torch.empty(0, dtype=torch.uint8)
    try:
        mapping = _LockedMapping(-1, size_bytes)
    except OSError as error:
        raise _refused(size_bytes, str(error)) from error
    memory = torch.frombuffer(mapping, dtype=torch.uint8)
    memory.zero_()  # touch every page now, not inside a timed step
    if device.type == "cuda":
        runtime = runtime or torch.cuda.cudart()
        code = runtime.cudaHostRegister(memory.data_ptr(), size_bytes, 0)
        if int(code):
            raise _refused(size_bytes, f"locking its pages: {code}; see ulimit -l")
        mapping.runtime, mapping.address = runtime, memory.data_ptr()
    return memory


def _refused(size_bytes: int, why: str) -> HostTierFull:
    return HostTierFull(
        f"the host refused {size_bytes} bytes ({why}); lower host_memory_bytes or use more ranks"
    )


TakeHost = Callable[[int, torch.device], Tensor]
"""What takes host memory: `host_memory`, or what tensors without storage have in its place."""


class Arrival:
    """Copies on their way; `wait` lets the compute stream wait for them, never the host."""

    def __init__(self, event: torch.cuda.Event | None) -> None:
        self._event = event

    def wait(self) -> None:
        if self._event is not None:
            self._event.wait()


class Courier:
    """Copies between host memory and preallocated device blocks, in the order of the calls.

    On CUDA each direction has a stream; a copy starts when the compute issued before it and the
    other direction's earlier copies are done. On a CPU a copy is done when the call returns.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        on_cuda = device.type == "cuda"
        self._inward = torch.cuda.Stream(device) if on_cuda else None
        self._outward = torch.cuda.Stream(device) if on_cuda else None
        self._leaving: list[Tensor] = []

    def bring(self, into: Tensor, source: Tensor) -> None:
        """Host to device. `into` must not be let go before `arrived().wait()`."""
        self._copy(self._inward, self._outward, into, source)

    def take(self, source: Tensor, into: Tensor) -> None:
        """Device to host. The memory of `source` is in use until `let_go`."""
        self._copy(self._outward, self._inward, into, source)
        if self._outward is not None:
            self._leaving.append(source)

    def let_go(self) -> None:
        """Let compute wait until all that was taken has left; then its device memory is free.

        Not left to the allocator, which frees by what the host sees: it runs far ahead.
        """
        if self._outward is not None and self._leaving:
            self._outward.record_event().wait()
        self._leaving.clear()

    def _copy(
        self,
        stream: torch.cuda.Stream | None,
        other: torch.cuda.Stream | None,
        into: Tensor,
        source: Tensor,
    ) -> None:
        if stream is None or other is None:
            into.copy_(source)
            return
        stream.wait_stream(torch.cuda.current_stream(self._device))
        stream.wait_stream(other)
        with torch.cuda.stream(stream):
            for piece, its_source in contiguous_pieces(into, source):
                piece.copy_(its_source, non_blocking=True)

    def arrived(self) -> Arrival:
        """Everything brought so far."""
        return Arrival(None if self._inward is None else self._inward.record_event())


def contiguous_pieces(into: Tensor, source: Tensor) -> list[tuple[Tensor, Tensor]]:
    """A copy as copies that are contiguous on both sides: the whole, or along the first axis.

    CUDA copies nothing else between the tiers without a detour through pageable memory, for which
    the host waits.
    """
    if into.is_contiguous() and source.is_contiguous():
        return [(into, source)]
    pieces = list(zip(into, source, strict=True))
    assert all(one.is_contiguous() for pair in pieces for one in pair), "more than one axis is cut"
    return pieces


@dataclass(frozen=True, kw_only=True)
class Slot:
    """Where a tensor lies in the arena."""

    offset_bytes: int
    size_bytes: int


class HostArena:
    """`capacity_bytes` of host memory; raises HostTierFull when a slot does not fit."""

    def __init__(
        self, capacity_bytes: int, device: torch.device, take: TakeHost | None = None
    ) -> None:
        self.capacity_bytes = capacity_bytes
        self.used_bytes = 0
        self.peak_bytes = 0
        self.memory = (take or host_memory)(capacity_bytes, device)
        self._courier = Courier(device)

    def _view(self, slot: Slot) -> Tensor:
        return self.memory[slot.offset_bytes : slot.offset_bytes + slot.size_bytes]

    def store(self, data: Tensor) -> Slot:
        """Copy `data` (uint8, one axis, on the device) into a new slot on top of the stack.

        Its device memory is in use until `let_go`.
        """
        needed = slot_bytes(data.numel())
        if self.used_bytes + needed > self.capacity_bytes:
            raise HostTierFull(
                f"the host tier holds {self.capacity_bytes} bytes and {self.used_bytes} are in "
                f"use: {needed} more do not fit; raise host_memory_bytes"
            )
        slot = Slot(offset_bytes=self.used_bytes, size_bytes=data.numel())
        self.used_bytes += needed
        self.peak_bytes = max(self.peak_bytes, self.used_bytes)
        self._courier.take(data, self._view(slot))
        return slot

    def let_go(self) -> None:
        """Let compute wait until all that was stored has left; then its device memory is free."""
        self._courier.let_go()

    def abandon(self) -> None:
        """After an error: nothing that lies here is wanted."""
        self.let_go()
        self.arrived().wait()
        self.used_bytes = 0

    def load(self, slot: Slot, into: Tensor) -> None:
        """Queue the copy of the topmost slot to the device and take it off the stack.

        `into` may be read after `arrived().wait()`.
        """
        assert slot.offset_bytes + slot_bytes(slot.size_bytes) == self.used_bytes, "not the top"
        # A later store() into this slot waits for this read: see Courier.
        self.used_bytes = slot.offset_bytes
        self._courier.bring(into, self._view(slot))

    def arrived(self) -> Arrival:
        """Everything loaded so far."""
        return self._courier.arrived()
