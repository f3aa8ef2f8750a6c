"""The device with a limit: it refuses what does not fit, and says so in torch's own words."""

from __future__ import annotations

import resource
import subprocess
import sys

import pytest
import torch

from benchmarks.job import Enforcement
from benchmarks.worker import device as devices

CPU = torch.device("cpu")

PROGRAM = """
import mmap, resource, sys, torch
from benchmarks.worker import device as devices
devices.strict_allocator()
torch.set_num_threads(1)
cpu, mib = torch.device("cpu"), 2**20
devices.warm_kernels(cpu, torch.float32)
before = resource.getrlimit(resource.RLIMIT_DATA)
held = torch.zeros(32 * mib // 4)
with devices.enforce(64 * mib, held.nbytes, cpu) as word:
    if word != "rlimit":
        sys.exit(77)
    for _ in range(20):
        more = torch.zeros(31 * mib // 4)
        del more
    host = torch.frombuffer(mmap.mmap(-1, 256 * mib), dtype=torch.uint8)
    host.zero_()
try:
    with devices.enforce(64 * mib, held.nbytes, cpu):
        torch.zeros(33 * mib // 4)
    raise AssertionError("33 MiB more were allowed")
except RuntimeError as error:
    assert devices.is_out_of_memory(error, True), error
    assert not devices.is_out_of_memory(error, False), error
assert resource.getrlimit(resource.RLIMIT_DATA) == before
torch.zeros(128 * mib // 4)
"""


def test_the_limit_refuses_the_device_and_not_the_host() -> None:
    result = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True)
    if result.returncode == 77:
        pytest.skip("this kernel does not enforce RLIMIT_DATA")
    assert result.returncode == 0, result.stderr


def test_no_limit_is_no_limit() -> None:
    before = resource.getrlimit(resource.RLIMIT_DATA)
    with devices.enforce(None, 0, CPU) as word:
        assert word == "no limit"
        assert resource.getrlimit(resource.RLIMIT_DATA) == before


def test_without_glibc_the_limit_is_only_accounted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "_glibc", lambda: None)
    with devices.enforce(2**20, 0, CPU) as word:
        assert word == "accounted, not enforced"


def test_a_sandbox_that_ignores_the_limit_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    if not devices.strict_allocator():
        pytest.skip("no glibc here")
    monkeypatch.setattr(devices, "_refuses", lambda size_bytes: False)
    before = resource.getrlimit(resource.RLIMIT_DATA)
    with devices.enforce(2**30, 0, CPU) as word:
        assert word == "accounted, not enforced"
        assert resource.getrlimit(resource.RLIMIT_DATA) == before


def test_only_memory_errors_are_out_of_memory() -> None:
    assert devices.is_out_of_memory(torch.OutOfMemoryError("full"), False)
    assert devices.is_out_of_memory(MemoryError(), True)
    assert not devices.is_out_of_memory(MemoryError(), False)
    assert devices.is_out_of_memory(RuntimeError("could not create a primitive"), True)
    assert not devices.is_out_of_memory(RuntimeError("could not create a primitive"), False)
    unsupported = RuntimeError("could not create a primitive descriptor for a matmul primitive")
    assert not devices.is_out_of_memory(unsupported, True)
    assert not devices.is_out_of_memory(RuntimeError("Connection closed by peer"), True)
    assert not devices.is_out_of_memory(ValueError("can't allocate memory"), True)


def test_a_reading_has_what_the_machine_has() -> None:
    reading = devices.memory_reading(CPU)
    assert reading.rss_peak_bytes > 2**20
    assert reading.allocated_peak_bytes is None


@pytest.mark.parametrize(
    ("peak_bytes", "limit_bytes", "enforcement", "refused"),
    [
        (101, 100, "cuda fraction", True),
        (100, 100, "cuda fraction", False),
        (101, None, "no limit", False),
        (101, 100, "rlimit", False),
    ],
)
def test_what_cuda_lets_pass_beyond_the_limit_is_refused_afterwards(
    peak_bytes: int, limit_bytes: int | None, enforcement: Enforcement, refused: bool
) -> None:
    caught = None
    try:
        devices.check_tracked(peak_bytes, limit_bytes, enforcement)
    except torch.OutOfMemoryError as error:
        caught = error
    assert (caught is not None) == refused
    assert caught is None or devices.is_out_of_memory(caught, True)
