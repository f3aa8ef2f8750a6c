"""GPUs as a made-up NVML describes them: settings, processes, what a driver refuses."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import pytest

from benchmarks import nvml
from benchmarks.environment import describe_environment
from benchmarks.launch.machine import gpus
from benchmarks.launch.machine import watch as watching
from benchmarks.launch.machine.watch import MachineWatch
from benchmarks.records import timing
from benchmarks.regression.history.entry import Machine
from benchmarks.worker import device as devices
from tests.unit.records_factory import record
from tests.unit.test_machine_watch import job, progress
from tests.unit.timing_cases import machine


class NVMLError(Exception):
    """NVML's error."""


def refuse(*_: Any) -> Any:
    raise NVMLError


def library(**changes: Any) -> Any:
    """NVML of a node of two GPUs; `changes` are functions."""
    functions: dict[str, Any] = {
        "NVMLError": NVMLError,
        "nvmlInit": lambda: None,
        "nvmlSystemGetDriverVersion": lambda: b"570.124",
        "nvmlDeviceGetCount": lambda: 2,
        "nvmlDeviceGetHandleByIndex": lambda number: number,
        "nvmlDeviceGetHandleByUUID": lambda name: {"GPU-b": 1}[name],
        "nvmlDeviceGetName": lambda handle: b"NVIDIA H100 80GB HBM3",
        "nvmlDeviceGetMaxClockInfo": lambda handle, kind: {0: 1980, 2: 2619}[kind],
        "nvmlDeviceGetApplicationsClock": refuse,
        "nvmlDeviceGetEnforcedPowerLimit": lambda handle: 700_000,
        "nvmlDeviceGetPersistenceMode": lambda handle: 1,
        "nvmlDeviceGetMigMode": lambda handle: [0, 0],
        "nvmlDeviceGetComputeRunningProcesses": lambda handle: [handle] * (handle + 1),
        "nvmlDeviceGetCurrentClocksThrottleReasons": lambda handle: (0x0, 0x40)[handle],
    }
    return SimpleNamespace(**{**functions, **changes})


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)

    def put(module: Any) -> None:
        monkeypatch.setitem(sys.modules, "pynvml", module)

    return put


def test_the_settings_of_every_gpu_are_part_of_the_environment(install: Any) -> None:
    install(library())
    first, second = describe_environment()["gpu_settings"]
    assert first == second
    assert first == {
        "name": "NVIDIA H100 80GB HBM3",
        "driver": "570.124",
        "graphics_clock_max_mhz": 1980,
        "memory_clock_max_mhz": 2619,
        "graphics_clock_wanted_mhz": None,
        "memory_clock_wanted_mhz": None,
        "power_limit_watts": 700.0,
        "persistence_mode": True,
        "mig_mode": False,
    }


def test_a_gpu_that_refuses_its_name_is_a_machine_too(install: Any) -> None:
    """Also in records of before, where the name is null."""
    install(library(nvmlDeviceGetName=refuse))
    environment = describe_environment()
    assert [gpu.name for gpu in Machine.of(environment).gpus] == ["unknown GPU"] * 2
    environment["gpu_settings"][0]["name"] = None
    assert Machine.of(environment).id.startswith("unknown-gpu-2-gpus-")


@pytest.mark.parametrize(
    "module",
    [None, library(nvmlInit=refuse), library(nvmlDeviceGetCount=refuse)],
    ids=["no package", "no driver", "a broken driver"],
)
def test_without_nvml_nothing_is_known(module: Any, install: Any) -> None:
    install(module)
    assert nvml.describe_gpus() == []
    assert gpus.foreign_processes(2) is None
    assert gpus.lowered_clocks() == set()


@pytest.mark.parametrize(
    ("visible", "handles"), [(None, [0, 1]), ("1", [1]), ("GPU-b,0", [1, 0]), ("", []), ("-1", [])]
)
def test_only_gpus_of_this_process_are_read(
    visible: str | None, handles: list[int], install: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(library())
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert list(nvml.visible_gpus(library())) == handles
    assert len(nvml.describe_gpus()) == len(handles)
    assert gpus.lowered_clocks() == ({"hw thermal"} if 1 in handles else set())


@pytest.mark.parametrize(
    ("counts", "ranks", "foreign"),
    [([1, 1], 2, 0), ([1, 3], 2, 2), ([1, 3], 1, 0), ([0, 0], 2, None), ([1, 0], 2, None)],
)
def test_processes_beside_a_rank_are_foreign(
    counts: list[int], ranks: int, foreign: int | None, install: Any
) -> None:
    """A GPU without any process while a rank computes there: the driver hides processes."""
    install(library(nvmlDeviceGetComputeRunningProcesses=lambda handle: [0] * counts[handle]))
    assert gpus.foreign_processes(ranks) == foreign


def test_a_launch_keeps_the_worst_reading(install: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    readings = [[1, 1], [1, 2], [1, 1]]
    counts: list[int] = []

    def running(handle: int) -> list[int]:
        counts[:] = readings.pop(0) if handle == 0 else counts
        return [0] * counts[handle]

    install(library(nvmlDeviceGetComputeRunningProcesses=running))
    monkeypatch.setattr(watching, "read_kernel", lambda threads: None, raising=True)
    watched = job(measured_steps=3)
    watch = MachineWatch(watched)
    watch.on_gpu = True
    report = watch.reporting(lambda progress: None)
    for index in range(2, 5):
        report(progress(index))
    state = watch.end(record()).machine_state
    assert state is not None
    assert state.foreign_gpu_processes == 1
    assert state.gpu_clock_reasons == ["hw thermal"]


def test_other_processes_on_a_gpu_disturb_a_launch() -> None:
    shared = record(machine_state=machine(foreign_gpu_processes=2))
    assert "launch 1: up to 2 other process(es) on a GPU" in timing.disturbance(shared, {})
    alone = record(machine_state=machine(foreign_gpu_processes=0))
    assert timing.disturbance(alone, {}) == ""


def test_retries_are_those_since_the_mark(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "memory_stats", lambda device: {"num_alloc_retries": 5})
    memory = devices.memory_reading(torch.device("cpu"))
    cuda = torch.device("cuda", 0)
    assert devices.allocation_retries(cuda) == 5
    assert devices.with_retries(memory, 3, cuda).allocation_retries == 2
    cpu = torch.device("cpu")
    assert devices.with_retries(memory, None, cpu).allocation_retries is None
