"""The device a rank computes on: its memory limit, and what it says about its memory.

A CPU has no memory of its own to run out of, so the limit is made: Linux counts private writable
mappings, which is what torch allocates, against RLIMIT_DATA and refuses more with torch's ordinary
out-of-memory error. Shared mappings are not counted and can play the host tier. For the count to
follow the live tensors, glibc must give freed memory back at once (the strict allocator), which
costs time: never while timing.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import resource
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from benchmarks.job import Enforcement
from sppo.config.sizes import GIB, KIB, MIB, format_bytes

_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
_STRICT_BYTES = 64 * KIB
_RELAXED_MMAP_BYTES = 32 * MIB
_RELAXED_TRIM_BYTES = 256 * MIB
_WARM_ROWS = 1024
_PYTHON_BYTES = 8 * MIB
_PROBE_BYTES = 16 * MIB
_STATM = Path("/proc/self/statm")
UNSEEN_BYTES = GIB
"""What CUDA's allocator may hold beyond the limit of tracked memory: what kernels take beside their
tensors (cuBLAS workspaces, the float32 dQ of a flash backward) and what is lost to fragments. Part
of a profile's reserve, as MKL's buffers on a CPU are no part of the limit either."""

_NO_MEMORY_FOR_CODE = "could not create a primitive"
"""oneDNN's words where it gets no memory for a kernel's machine code or scratch. What it does not
support it refuses earlier, as a primitive descriptor."""


def strict_allocator() -> bool:
    """Freed memory of 64 KiB and more goes back to the system at once. False without glibc.

    Call it before anything large is allocated: a hole left in the heap would be used again
    unseen by any limit.
    """
    return _set_allocator(_STRICT_BYTES, _STRICT_BYTES)


def relaxed_allocator() -> bool:
    """Freed memory is kept for the next allocation, for timing. False without glibc."""
    return _set_allocator(_RELAXED_MMAP_BYTES, _RELAXED_TRIM_BYTES)


@contextmanager
def enforce(
    limit_bytes: int | None, live_tracked_bytes: int, device: torch.device
) -> Iterator[Enforcement]:
    """Let the device hold `limit_bytes` at most, `live_tracked_bytes` of which it holds already.

    Yields how the limit is enforced. `None` is no limit, under the same strict allocator.
    On leaving, by an exception too, the limit is lifted and the allocator relaxed.
    """
    strict = strict_allocator()
    before = resource.getrlimit(resource.RLIMIT_DATA)
    try:
        yield _limit(limit_bytes, live_tracked_bytes, device, strict)
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, before)
        if device.type == "cuda":
            torch.cuda.set_per_process_memory_fraction(1.0, device)
        relaxed_allocator()


def check_tracked(peak_bytes: int, limit_bytes: int | None, enforcement: Enforcement) -> None:
    """Raise torch's out-of-memory error where CUDA's allocator let a step pass that is too large.

    It is told to allow more than the limit, see `UNSEEN_BYTES`.
    """
    if enforcement == "cuda fraction" and limit_bytes is not None and peak_bytes > limit_bytes:
        raise torch.OutOfMemoryError(
            f"the step needs {format_bytes(peak_bytes)} of tensors, the limit is "
            f"{format_bytes(limit_bytes)}"
        )


def warm_kernels(device: torch.device, dtype: torch.dtype) -> None:
    """Let the matrix library of a CPU take the scratch buffers it keeps for good.

    They are about 12 MiB a thread (MKL), come with the first large product of each orientation,
    and would be charged to whichever step computes it. Like a GPU's context they are no part of
    what the device may hold.
    """
    if device.type == "cpu":
        square = torch.ones(_WARM_ROWS, _WARM_ROWS, dtype=dtype)
        for left in (square, square.t()):
            for right in (square, square.t()):
                torch.mm(left, right)


def warm_interpreter() -> None:
    """Let Python take room for the small objects of a step, which it keeps and fills again.

    It takes 1 MiB at a time, in a process of which only tensors shall count.
    """
    size_bytes = sys.getsizeof(object())
    everything = [object() for _ in range(_PYTHON_BYTES // size_bytes)]
    _interpreter_room.extend(everything[:: MIB // (2 * size_bytes)])


_interpreter_room: list[object] = []
"""Some object of each block of that room: Python gives back a block in which nothing lives."""


def is_out_of_memory(error: BaseException, limit_in_force: bool) -> bool:
    """Whether `error` says that the device is full, by its type and torch's own words.

    A CPU allocation refused without a limit in force is the machine's trouble, not the device's.
    """
    if isinstance(error, torch.OutOfMemoryError):
        return True
    if not limit_in_force:
        return False
    if isinstance(error, MemoryError):
        return True
    return isinstance(error, RuntimeError) and (
        "can't allocate memory" in str(error)
        or "std::bad_alloc" in str(error)
        or str(error) == _NO_MEMORY_FOR_CODE
    )


@dataclass(frozen=True, kw_only=True)
class MemoryReading:
    """Bytes as the system and CUDA count them; None where there is no such thing."""

    rss_peak_bytes: int
    allocated_peak_bytes: int | None = None
    reserved_peak_bytes: int | None = None
    driver_used_bytes: int | None = None


def memory_reading(device: torch.device) -> MemoryReading:
    """Peaks of this process so far (CUDA: since `reset_peaks`), and the driver's use now.

    The driver counts everybody on the device.
    """
    unit_bytes = 1 if sys.platform == "darwin" else KIB
    rss_peak_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit_bytes
    if device.type != "cuda":
        return MemoryReading(rss_peak_bytes=rss_peak_bytes)
    free_bytes, total_bytes = torch.cuda.mem_get_info(device)
    return MemoryReading(
        rss_peak_bytes=rss_peak_bytes,
        allocated_peak_bytes=torch.cuda.max_memory_allocated(device),
        reserved_peak_bytes=torch.cuda.max_memory_reserved(device),
        driver_used_bytes=total_bytes - free_bytes,
    )


def reset_peaks(device: torch.device) -> None:
    """Start CUDA's peaks anew; elsewhere nothing happens."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)


def data_reader(device: torch.device) -> Callable[[], int] | None:
    """Reads what this process holds, for differences: quick enough after every operator.

    On CUDA what the allocator has given out. None where the system does not tell.
    """
    if device.type == "cuda":
        return partial(torch.cuda.memory_allocated, device)
    if device.type != "cpu" or not _STATM.exists():
        return None
    descriptor = os.open(_STATM, os.O_RDONLY | os.O_CLOEXEC)
    page_bytes = os.sysconf("SC_PAGE_SIZE")

    def held_bytes() -> int:
        return int(os.pread(descriptor, 256, 0).split()[5]) * page_bytes

    return held_bytes


def private_bytes() -> int:
    """Private writable memory of this process, what RLIMIT_DATA counts. Linux only."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith("VmData:"):
            return int(line.split()[1]) * KIB
    raise OSError("this kernel does not tell VmData")


def _glibc() -> ctypes.CDLL | None:
    if sys.platform != "linux":
        return None
    library = ctypes.CDLL(None)
    return library if hasattr(library, "gnu_get_libc_version") else None


def _set_allocator(mmap_bytes: int, trim_bytes: int) -> bool:
    library = _glibc()
    if library is None:
        return False
    done = library.mallopt(_M_MMAP_THRESHOLD, mmap_bytes)
    done &= library.mallopt(_M_TRIM_THRESHOLD, trim_bytes)
    return bool(done)


def _limit(
    limit_bytes: int | None, live_tracked_bytes: int, device: torch.device, strict: bool
) -> Enforcement:
    if limit_bytes is None:
        return "no limit"
    if device.type == "cuda":
        return _limit_cuda(limit_bytes, device)
    if strict and device.type == "cpu":
        return _limit_data(limit_bytes - live_tracked_bytes)
    return "accounted, not enforced"


def _limit_cuda(limit_bytes: int, device: torch.device) -> Enforcement:
    torch.cuda.empty_cache()
    total_bytes = torch.cuda.get_device_properties(device).total_memory
    share = min(1.0, (limit_bytes + UNSEEN_BYTES) / total_bytes)
    torch.cuda.set_per_process_memory_fraction(share, device)
    return "cuda fraction"


def _limit_data(more_bytes: int) -> Enforcement:
    """Allow `more_bytes` above what the process holds now. Only the soft limit: it is lifted."""
    library = _glibc()
    assert library is not None, "the strict allocator was set"
    library.malloc_trim(0)
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    soft = max(0, private_bytes() + more_bytes)
    if hard != resource.RLIM_INFINITY:
        soft = min(soft, hard)
    resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))
    if _refuses(max(0, more_bytes) + _PROBE_BYTES):
        return "rlimit"
    resource.setrlimit(resource.RLIMIT_DATA, (hard, hard))
    return "accounted, not enforced"


def _refuses(size_bytes: int) -> bool:
    """Whether the kernel keeps its word: some sandboxes accept the limit and ignore it."""
    try:
        mapping = mmap.mmap(-1, size_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    except (OSError, MemoryError):
        return True
    mapping.close()
    return False
