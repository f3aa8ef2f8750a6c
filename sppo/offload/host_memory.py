"""The host tier: one arena per rank, taken once and sized by the plan; a stack of slots.

Subsequences are offloaded in forward order and reloaded in reverse, so slots form a stack. On a CPU
the arena is a shared mapping, outside the device's enforced limit, and copies are synchronous. For
CUDA its pages are private and locked, and D2H and H2D copies have a stream each.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor

from sppo.config.errors import HostTierFull
from sppo.config.sizes import MIB, slot_bytes
from sppo.offload.host_limits import CURE, check_available

_TOUCH_BYTES = 256 * MIB
"""Bytes that a thread touches at a time."""

_TOUCH_THREADS = 8
"""One thread clears 2 to 3 GB/s of small pages: 40 s for 100 GiB."""


class _Mapping(mmap.mmap):
    """Anonymous memory whose pages are locked, if `runtime` is set, while the mapping exists."""

    runtime: Any = None
    address = 0

    def __del__(self) -> None:
        if self.runtime is not None:
            self.runtime.cudaHostUnregister(self.address)


def host_memory(size_bytes: int, device: torch.device, runtime: Any = None) -> Tensor:
    """uint8 [size_bytes] of the host tier; for CUDA in huge pages where they are, all locked.

    The size is exact; torch's own pinned memory takes the next power of two. The pages lie on the
    NUMA node of the process. `runtime`: CUDA's by default; it locks and unlocks the pages. Raises
    HostTierFull, before anything is taken, where the host has too little left, or if it refuses.
    """
    if size_bytes == 0:
        return torch.empty(0, dtype=torch.uint8)
    check_available(size_bytes)
    on_cuda = device.type == "cuda"
    sharing = mmap.MAP_PRIVATE if on_cuda else mmap.MAP_SHARED
    try:
        mapping = _Mapping(-1, size_bytes, flags=sharing | mmap.MAP_ANONYMOUS)
    except OSError as error:
        raise _refused(size_bytes, str(error)) from error
    memory = torch.frombuffer(mapping, dtype=torch.uint8)
    if not on_cuda:
        memory.zero_()  # touch every page now, not inside a timed step
        return memory
    with suppress(AttributeError, OSError):  # a kernel without huge pages
        mapping.madvise(mmap.MADV_HUGEPAGE)
    _touch(memory)
    runtime = runtime or torch.cuda.cudart()
    code = runtime.cudaHostRegister(memory.data_ptr(), size_bytes, 0)
    if int(code):
        raise _refused(size_bytes, f"locking its pages: {code}; see ulimit -l")
    mapping.runtime, mapping.address = runtime, memory.data_ptr()
    return memory


def _touch(memory: Tensor) -> None:
    """Write every page now, not inside a timed step, by several threads."""
    threads = min(_TOUCH_THREADS, len(os.sched_getaffinity(0)))
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(Tensor.zero_, memory.split(_TOUCH_BYTES)))


def _refused(size_bytes: int, why: str) -> HostTierFull:
    return HostTierFull(f"the host refused {size_bytes} bytes ({why}); {CURE}")


TakeHost = Callable[[int, torch.device], Tensor]
"""Takes (bytes, device), returns uint8 [bytes]: `host_memory`, or its stand-in for fake tensors."""


class CopyEvent:
    """Copies in flight; a stream (None: that of compute) waits for them, never the host."""

    def __init__(self, event: torch.cuda.Event | None = None) -> None:
        self._event = event

    def wait(self, stream: torch.cuda.Stream | None = None) -> None:
        if self._event is not None:
            self._event.wait(stream)


DONE = CopyEvent()
"""Copies that are over."""


class CopyStreams:
    """Copies between host memory and preallocated device blocks.

    On CUDA each direction has a stream, and the two do not wait for each other. A copy starts when
    the compute issued before it, the earlier copies of its direction, and the copies `after` are
    done: those of the other direction that used the same memory. On a CPU a copy is done when the
    call returns. `moved_bytes` counts both directions.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        on_cuda = device.type == "cuda"
        self._h2d = torch.cuda.Stream(device) if on_cuda else None
        self._d2h = torch.cuda.Stream(device) if on_cuda else None
        self._offloading: list[Tensor] = []
        self.moved_bytes = 0

    def copy_to_device(self, into: Tensor, source: Tensor, *after: CopyEvent) -> None:
        """H2D. `into` must not be freed before `h2d_event().wait()`."""
        self.moved_bytes += source.nbytes
        self._copy(self._h2d, into, source, after)

    def copy_to_host(self, source: Tensor, into: Tensor, *after: CopyEvent) -> None:
        """D2H. The memory of `source` is in use until `wait_for_offloads`."""
        self.moved_bytes += source.nbytes
        self._copy(self._d2h, into, source, after)
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
        into: Tensor,
        source: Tensor,
        after: tuple[CopyEvent, ...],
    ) -> None:
        if stream is None:
            into.copy_(source)
            return
        stream.wait_stream(torch.cuda.current_stream(self._device))
        for event in after:
            event.wait(stream)
        with torch.cuda.stream(stream):
            for piece, its_source in contiguous_pieces(into, source):
                piece.copy_(its_source, non_blocking=True)

    def h2d_event(self) -> CopyEvent:
        """All H2D copies so far."""
        return DONE if self._h2d is None else CopyEvent(self._h2d.record_event())

    def d2h_event(self) -> CopyEvent:
        """All D2H copies so far."""
        return DONE if self._d2h is None else CopyEvent(self._d2h.record_event())


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
        # Copies that may still run: into every full slot, and out of places that were slots.
        self._stored: dict[int, CopyEvent] = {}
        self._loaded: list[tuple[slice, CopyEvent]] = []

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
        self.copies.copy_to_host(data, self.memory[slot], self._last_reader(slot))
        self._stored[slot.start] = self.copies.d2h_event()
        return slot

    def _last_reader(self, slot: slice) -> CopyEvent:
        """The last reload from a place in this new slot; the others there were before it.

        Reloads of a place within the slot are forgotten: later copies to it follow this one.
        """
        last, others = DONE, []
        for place, event in self._loaded:
            if place.start < slot.stop and slot.start < place.stop:
                last = event
            if place.start < slot.start or slot.stop < place.stop:
                others.append((place, event))
        self._loaded = others
        return last

    def abort(self) -> None:
        """After an error: drop everything in the arena."""
        self.copies.wait_for_offloads()
        self.copies.h2d_event().wait()
        self._stored.clear()
        self.used_bytes = 0

    def load(self, slot: slice, into: Tensor) -> None:
        """Queue the copy of the topmost slot to the device, and remove the slot from the stack.

        `into` may be read after `copies.h2d_event().wait()`.
        """
        assert slot.start + slot_bytes(slot.stop - slot.start) == self.used_bytes, "not the top"
        self.used_bytes = slot.start
        self.copies.copy_to_device(into, self.memory[slot], self._stored.pop(slot.start))
        event = self.copies.h2d_event()
        if event is not DONE:
            self._loaded.append((slot, event))
