"""The readings beside a launch: counters, kernel, clocks; a reading that fails harms nothing."""

from __future__ import annotations

import os
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import msgspec
import psutil
import pytest

from benchmarks import workloads
from benchmarks.job import Job, Progress, StepReport
from benchmarks.launch.machine import gpus, kernel
from benchmarks.launch.machine import watch as watching
from benchmarks.launch.machine.watch import Counters, MachineWatch, between
from benchmarks.records import metrics
from tests.unit.records_factory import record
from tests.unit.timing_cases import machine


def job(measured_steps: int) -> Job:
    return Job(
        workload=workloads.find("mini-cpu"),
        system="sppo",
        row="SPPO",
        launch=1,
        settings={},
        weights_path="",
        tokens_path="",
        output_directory="",
        ranks=2,
        warmup_steps=1,
        measured_steps=measured_steps,
    )


def progress(index: int, phase: Any = "measured") -> Progress:
    report = StepReport(phase=phase, tokens=1, seconds=1.0, loss=1.0, grad_norm=1.0)
    return Progress(step=index, steps=5, report=report)


def counters(time: float, **changes: Any) -> Counters:
    values: dict[str, Any] = {
        "time": time,
        "own": 1.5 * time,
        "busy": 2.0 * time,
        "stolen": 0.0,
        "throttled": None,
        "thermal_events": None,
    }
    return Counters(**{**values, **changes})


@pytest.fixture
def at(monkeypatch: pytest.MonkeyPatch) -> list[Counters]:
    """The counters that the next readings see, in turn; the kernel takes no time."""
    upcoming: list[Counters] = []
    monkeypatch.setattr(watching, "read_counters", lambda: upcoming.pop(0))
    reading = metrics.Spread(median=0.003, low=0.003, high=0.00306)
    monkeypatch.setattr(watching, "read_kernel", lambda threads: reading)
    return upcoming


def watched(first: Counters, steps: list[Counters], last: Counters, at: list[Counters]) -> Any:
    """The state after a launch of five steps, of which the last two are measured."""
    at += [first, *steps, last]
    watch = MachineWatch(job(measured_steps=2))
    report = watch.reporting(lambda progress: None)
    for index in range(5):
        report(progress(index))
    return watch.end(record()).machine_state


def test_the_window_is_that_of_the_measured_steps(at: list[Counters]) -> None:
    steps = [counters(20), counters(24, own=36 - 0.5)]
    state = watched(counters(0), steps, counters(30), at)
    assert state.window_seconds == 4
    assert state.own_cpu_seconds == 5.5
    assert state.foreign_cpu_seconds == 2.5
    assert state.kernel_seconds == [0.003, 0.003]


def test_short_steps_take_the_window_of_the_whole_launch(at: list[Counters]) -> None:
    state = watched(counters(0), [counters(20), counters(20.2)], counters(30), at)
    assert state.window_seconds == 30


def test_others_never_have_less_than_no_load() -> None:
    """Ticks of 10 ms and exact times of processes differ a little."""
    state = between(machine(), counters(0), counters(2, own=4.1, throttled=1.0, thermal_events=5))
    assert state.foreign_cpu_seconds == 0
    assert state.throttled_seconds is None
    first = counters(0, throttled=0.5, thermal_events=2)
    state = between(machine(), first, counters(2, throttled=1.0, thermal_events=5))
    assert (state.throttled_seconds, state.thermal_events) == (0.5, 3)
    assert state.throttled_share == 0.25


def test_readings_that_fail_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> Any:
        raise psutil.AccessDenied

    def breaks(*_: object) -> Any:
        raise RuntimeError("no thread")

    monkeypatch.setattr(watching, "read_counters", fails)
    monkeypatch.setattr(watching, "read_kernel", breaks)
    seen: list[int] = []
    watch = MachineWatch(job(measured_steps=2))
    report = watch.reporting(lambda progress: seen.append(progress.step))
    report(progress(2, "warm-up"))
    report(progress(4))
    state = watch.end(record()).machine_state
    assert seen == [2, 4]
    assert state is not None
    assert (state.kernel_seconds, state.window_seconds) == ([], None)
    assert state.taken_share == 0


@pytest.mark.parametrize("arguments", [(0, True), (2, False)])
def test_launches_without_times_are_not_watched(
    arguments: tuple[int, bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watching, "read_kernel", None)
    measured_steps, launched = arguments
    watch = MachineWatch(job(measured_steps), launched=launched)
    assert watch.end(record()) == record()


def test_this_machine_can_be_read() -> None:
    first, last = watching.read_counters(), watching.read_counters()
    assert last.time >= first.time
    assert last.busy >= first.busy
    assert last.own >= first.own
    assert 0 < kernel.read_kernel(2, budget_seconds=0.0).median < 60


def test_a_control_groups_throttling_is_read(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(watching, "CGROUP", tmp_path)
    assert watching._throttled_seconds() is None
    (tmp_path / "cpu.stat").write_text("usage_usec 5\nnr_throttled 2\nthrottled_usec 2500000\n")
    assert watching._throttled_seconds() == 2.5


def test_reasons_of_lowered_clocks(monkeypatch: pytest.MonkeyPatch) -> None:
    assert gpus.words(0x1 | 0x4 | 0x40) == {"sw power cap", "hw thermal"}
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert gpus.lowered_clocks() == set()

    class Broken(Exception):
        """NVML's error."""

    def no_driver() -> None:
        raise Broken

    nvml = types.SimpleNamespace(
        NVMLError=Broken,
        nvmlInit=lambda: None,
        nvmlDeviceGetCount=lambda: 2,
        nvmlDeviceGetHandleByIndex=lambda number: number,
        nvmlDeviceGetCurrentClocksThrottleReasons=lambda handle: (0x8, 0x80)[handle],
    )
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    assert gpus.lowered_clocks() == {"hw slowdown", "power brake"}
    nvml.nvmlInit = no_driver
    assert gpus.lowered_clocks() == set()


def test_the_state_survives_a_record_file(tmp_path: Path) -> None:
    from benchmarks.records import record as records

    path = tmp_path / "record.json"
    watched_record = msgspec.structs.replace(record(), machine_state=machine())
    records.write(watched_record, path)
    assert records.read(path) == watched_record


KERNEL_PROGRAM = """
import os, torch
from benchmarks.launch.machine.kernel import read_kernel

multiply, seen = torch.mm, set()

def watched(left, right):
    multiply(left, right)
    seen.add(len(os.listdir("/proc/self/task")))

before = len(os.listdir("/proc/self/task"))
torch.mm = watched
read_kernel(2, budget_seconds=0.0)
print(max(seen) - before)
"""


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="no /proc")
def test_the_kernel_has_a_thread_for_each_wanted_core_and_no_more() -> None:
    environment = {name: value for name, value in os.environ.items() if "_NUM_THREADS" not in name}
    done = subprocess.run(
        [sys.executable, "-c", KERNEL_PROGRAM],
        env={**environment, "OMP_NUM_THREADS": "2"},
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert int(done.stdout) <= 2
