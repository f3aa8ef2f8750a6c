"""The host tier: one arena per rank, taken once and sized by the plan; a stack of slots.

Subsequences are offloaded in forward order and reloaded in reverse, so slots form a stack. The
arena is a shared mapping. On a CPU it lies outside the device's enforced limit, and copies are
synchronous. For CUDA its pages are locked, and D2H and H2D copies have a stream each.
"""

from __future__ import annotations

import mmap
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from sppo.config.errors import HostTierFull
from sppo.config.sizes import slot_bytes


class _LockedMapping(mmap.mmap):
    """Shared memory whose pages are locked while the mapping exists."""

    runtime: Any = None
    address = 0

    def __del__(self) -> None:
        if self.runtime is not None:
            self.runtime.cudaHostUnregister(self.address)


def host_memory(size_bytes: int, device: torch.device, runtime: Any = None) -> Tensor:
    """uint8 [size_bytes] of the host tier: a shared mapping, its pages locked for CUDA.

    The size is exact; torch's own pinned memory takes the next power of two. The pages lie on the
    NUMA node of the process. `runtime`: CUDA's by default; it locks and unlocks the pages. Raises
    HostTierFull if the host refuses.
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
"""Takes (bytes, device), returns uint8 [bytes]: `host_memory`, or its stand-in for fake tensors."""


class CopyEvent:
    """Copies in flight; `wait` lets the compute stream wait for them, never the host."""

    def __init__(self, event: torch.cuda.Event | None) -> None:
        self._event = event

    def wait(self) -> None:
        if self._event is not None:
            self._event.wait()


class CopyStreams:
    """Copies between host memory and preallocated device blocks, in the order of the calls.

    On CUDA each direction has a stream. A copy starts when the compute issued before it, and the
    earlier copies of the opposite direction, are done. On a CPU a copy is done when the call
    returns. `moved_bytes` counts both directions.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        on_cuda = device.type == "cuda"
        self._h2d = torch.cuda.Stream(device) if on_cuda else None
        self._d2h = torch.cuda.Stream(device) if on_cuda else None
        self._offloading: list[Tensor] = []
        self.moved_bytes = 0

    def copy_to_device(self, into: Tensor, source: Tensor) -> None:
        """H2D. `into` must not be freed before `h2d_event().wait()`."""
        self.moved_bytes += source.nbytes
        self._copy(self._h2d, self._d2h, into, source)

    def copy_to_host(self, source: Tensor, into: Tensor) -> None:
        """D2H. The memory of `source` is in use until `wait_for_offloads`."""
        self.moved_bytes += source.nbytes
        self._copy(self._d2h, self._h2d, into, source)
        if self._d2h is not None:
            self._offloading.append(source)

    def wait_for_offloads(self) -> None:
        """Let compute wait for all D2H copies; then their device memory is free.

        The allocator cannot do so: it frees by the host's progress, which is far ahead.
        """
        if self._d2h is not None and self._offloading:
            self._d2h.record_event().wait()
        self._offloading.clear()

    def _copy(
        self,
        stream: torch.cuda.Stream | None,
        opposite: torch.cuda.Stream | None,
        into: Tensor,
        source: Tensor,
    ) -> None:
        if stream is None or opposite is None:
            into.copy_(source)
            return
        stream.wait_stream(torch.cuda.current_stream(self._device))
        stream.wait_stream(opposite)
        with torch.cuda.stream(stream):
            for piece, its_source in contiguous_pieces(into, source):
                piece.copy_(its_source, non_blocking=True)

    def h2d_event(self) -> CopyEvent:
        """All H2D copies so far."""
        return CopyEvent(None if self._h2d is None else self._h2d.record_event())


def contiguous_pieces(into: Tensor, source: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Split a copy into copies that are contiguous on both sides, along the first axis if needed.

    CUDA copies anything else through pageable memory, and the host waits for that.
    """
    if into.is_contiguous() and source.is_contiguous():
        return [(into, source)]
    pieces = list(zip(into, source, strict=True))
    assert all(a.is_contiguous() and b.is_contiguous() for a, b in pieces), "two axes are cut"
    return pieces


class HostArena:
    """A stack of slots, the places of tensors, in `capacity_bytes` of host memory.

    peak_bytes: its greatest use. copies: the streams of `store` and `load`.
    """

    def __init__(
        self, capacity_bytes: int, device: torch.device, take: TakeHost | None = None
    ) -> None:
        self.capacity_bytes = capacity_bytes
        self.used_bytes = 0
        self.peak_bytes = 0
        self.memory = (take or host_memory)(capacity_bytes, device)
        self.copies = CopyStreams(device)

    def store(self, data: Tensor) -> slice:
        """Copy `data` (uint8 [bytes], on the device) into a new slot on top of the stack.

        Its device memory is in use until `copies.wait_for_offloads`. Raises HostTierFull where the
        slot does not fit.
        """
        needed = slot_bytes(data.numel())
        if self.used_bytes + needed > self.capacity_bytes:
            raise HostTierFull(
                f"the host tier holds {self.capacity_bytes} bytes and {self.used_bytes} are in "
                f"use: {needed} more do not fit; raise host_memory_bytes"
            )
        slot = slice(self.used_bytes, self.used_bytes + data.numel())
        self.used_bytes += needed
        self.peak_bytes = max(self.peak_bytes, self.used_bytes)
        self.copies.copy_to_host(data, self.memory[slot])
        return slot

    def abort(self) -> None:
        """After an error: drop everything in the arena."""
        self.copies.wait_for_offloads()
        self.copies.h2d_event().wait()
        self.used_bytes = 0

    def load(self, slot: slice, into: Tensor) -> None:
        """Queue the copy of the topmost slot to the device, and remove the slot from the stack.

        `into` may be read after `copies.h2d_event().wait()`.
        """
        assert slot.start + slot_bytes(slot.stop - slot.start) == self.used_bytes, "not the top"
        # A later store() into this slot waits for this read: see CopyStreams.
        self.used_bytes = slot.start
        self.copies.copy_to_device(into, self.memory[slot])
