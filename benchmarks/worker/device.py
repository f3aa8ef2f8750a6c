"""The device of a rank: its memory limit, and readings of its memory.

A CPU has no device memory, so RLIMIT_DATA is the limit. Linux counts private writable mappings,
which torch allocates, against it; torch then raises its ordinary out-of-memory error. Shared
mappings do not count and serve as the host tier. The count follows the live tensors only if glibc
returns freed memory at once (the strict allocator). That costs time, so timed steps do not use it.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import resource
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import msgspec
import torch

from benchmarks.job import Enforcement, Memory
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
"""Bytes that CUDA's allocator may hold above the limit of tracked memory: cuBLAS workspaces, the
float32 dQ of a flash backward, fragments. They are part of a profile's reserve. In the same way
MKL's buffers on a CPU are no part of the limit."""

NO_DEVICE_MEMORY = (
    "CUDA error: out of memory",
    "Cuda failure 'out of memory'",
    "Cuda failure 2 'out of memory'",
    "Failed to CUDA calloc",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
)
"""Messages of CUDA, NCCL, cuBLAS and cuDNN, which allocate outside torch's allocator."""

_NO_MEMORY_FOR_CODE = "could not create a primitive"
"""oneDNN's message without memory for a kernel's machine code or scratch. For an unsupported
operation its message ends in "primitive descriptor"."""


def strict_allocator() -> bool:
    """Return freed memory of 64 KiB and more to the system at once. False without glibc.

    Call this before any large allocation: no limit counts the reuse of a hole in the heap.
    """
    return _set_allocator(_STRICT_BYTES, _STRICT_BYTES)


def relaxed_allocator() -> bool:
    """Keep freed memory for the next allocation, for timing. False without glibc."""
    return _set_allocator(_RELAXED_MMAP_BYTES, _RELAXED_TRIM_BYTES)


@contextmanager
def enforce(
    limit_bytes: int | None, live_tracked_bytes: int, device: torch.device
) -> Iterator[Enforcement]:
    """Limit the device to `limit_bytes`, of which `live_tracked_bytes` are in use already.

    Yields the way of enforcement. None is no limit, with the same strict allocator. At the end,
    also after an exception, the limit is lifted and the allocator relaxed.
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
    """Raise torch's out-of-memory error if tracked memory exceeded the limit on CUDA.

    CUDA's allocator allows `UNSEEN_BYTES` more than the limit.
    """
    if enforcement == "cuda fraction" and limit_bytes is not None and peak_bytes > limit_bytes:
        raise torch.OutOfMemoryError(
            f"the step needs {format_bytes(peak_bytes)} of tensors, the limit is "
            f"{format_bytes(limit_bytes)}"
        )


def warm_kernels(device: torch.device, dtype: torch.dtype) -> None:
    """Make the matrix library of a CPU allocate its permanent scratch buffers.

    They are about 12 MiB a thread (MKL) and come with the first large product of each orientation.
    Like a GPU's context they do not count against the limit.
    """
    if device.type == "cpu":
        square = torch.ones(_WARM_ROWS, _WARM_ROWS, dtype=dtype)
        for left in (square, square.t()):
            for right in (square, square.t()):
                torch.mm(left, right)


def warm_interpreter() -> None:
    """Make Python allocate room for the small objects of a step, which it then reuses.

    Python allocates 1 MiB at a time, which would count against the limit of tensors.
    """
    size_bytes = sys.getsizeof(object())
    everything = [object() for _ in range(_PYTHON_BYTES // size_bytes)]
    _interpreter_room.extend(everything[:: MIB // (2 * size_bytes)])


_interpreter_room: list[object] = []
"""Objects in each block of that room: Python frees a block without objects."""


def is_out_of_memory(error: BaseException, limit_in_force: bool) -> bool:
    """Whether `error` says that the device is full, by its type and its library's message.

    Without a limit in force, a failed CPU allocation is an error of the machine.
    """
    if isinstance(error, torch.OutOfMemoryError):
        return True
    message = str(error)
    if isinstance(error, RuntimeError) and any(words in message for words in NO_DEVICE_MEMORY):
        return True
    full = "can't allocate memory" in message or "std::bad_alloc" in message
    is_allocation = isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and (full or message == _NO_MEMORY_FOR_CODE)
    )
    return limit_in_force and is_allocation


def memory_reading(device: torch.device) -> Memory:
    """Bytes that the system and CUDA count. Tracked fields are empty.

    Peaks are those of this process (on CUDA since `reset_peaks`). The driver counts all processes
    on the device, at this time.
    """
    unit_bytes = 1 if sys.platform == "darwin" else KIB
    rss_peak_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit_bytes
    if device.type != "cuda":
        return Memory(rss_peak_bytes=rss_peak_bytes)
    free_bytes, total_bytes = torch.cuda.mem_get_info(device)
    return Memory(
        rss_peak_bytes=rss_peak_bytes,
        allocated_peak_bytes=torch.cuda.max_memory_allocated(device),
        reserved_peak_bytes=torch.cuda.max_memory_reserved(device),
        driver_used_bytes=total_bytes - free_bytes,
    )


def allocation_retries(device: torch.device) -> int | None:
    """How often CUDA's allocator found no memory, emptied its cache and tried a second time.

    Since the start of the process. None on a CPU.
    """
    if device.type != "cuda":
        return None
    return int(torch.cuda.memory_stats(device).get("num_alloc_retries", 0))


def with_retries(memory: Memory, before: int | None, device: torch.device) -> Memory:
    """The memory with the retries since an earlier `allocation_retries`."""
    now = allocation_retries(device)
    retries = None if now is None or before is None else now - before
    return msgspec.structs.replace(memory, allocation_retries=retries)


def reset_peaks(device: torch.device) -> None:
    """Reset CUDA's peaks. Does nothing on a CPU."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)


def data_reader(device: torch.device) -> Callable[[], int] | None:
    """A function that reads the bytes this process holds, fast enough after every operator.

    On CUDA the bytes of the allocator. Only differences have a meaning. None without `/proc`.
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
    """Private writable memory of this process, which RLIMIT_DATA counts. Linux only.

    Raises OSError where the kernel does not report it.
    """
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith("VmData:"):
            return int(line.split()[1]) * KIB
    raise OSError("this kernel does not report VmData")


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
        torch.cuda.empty_cache()
        total_bytes = torch.cuda.get_device_properties(device).total_memory
        share = min(1.0, (limit_bytes + UNSEEN_BYTES) / total_bytes)
        torch.cuda.set_per_process_memory_fraction(share, device)
        return "cuda fraction"
    if strict and device.type == "cpu":
        return _limit_data(limit_bytes - live_tracked_bytes)
    return "accounted, not enforced"


def _limit_data(more_bytes: int) -> Enforcement:
    """Allow `more_bytes` above the present memory. Only the soft limit, so it can be lifted."""
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
    """Whether the kernel enforces the limit: some sandboxes accept and ignore it."""
    try:
        mapping = mmap.mmap(-1, size_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    except (OSError, MemoryError):
        return True
    mapping.close()
    return False
