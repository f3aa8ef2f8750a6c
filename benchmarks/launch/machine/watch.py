"""Watches the machine beside one launch: the kernel's time, foreign load, throttling.

While steps are timed, the counters are read before the first measured step and after the last, and
on GPUs NVML is asked after each. All else is before or after the launch.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import msgspec
import psutil

from benchmarks.environment import available_cores, cpu_mhz
from benchmarks.job import Job, Progress
from benchmarks.launch.machine import gpus
from benchmarks.launch.machine.kernel import read_kernel
from benchmarks.records.machine import MachineState
from benchmarks.records.metrics import Spread
from benchmarks.records.record import Record

LEAST_WINDOW_SECONDS = 1.0
"""Shorter measured steps give no foreign load of their own: the counters tick every 10 ms."""

CGROUP = Path("/sys/fs/cgroup")
THERMAL = "cpu[0-9]*/thermal_throttle/core_throttle_count"


@dataclass(frozen=True, kw_only=True)
class Counters:
    """Counters of the machine at one time, in seconds, over the cores of this process."""

    time: float
    own: float
    busy: float
    stolen: float
    throttled: float | None
    thermal_events: int | None


def read_counters() -> Counters:
    """The counters now. Raises psutil.Error or OSError where the system has none."""
    cores = _cores()
    return Counters(
        time=time.monotonic(),
        own=_own_cpu_seconds(),
        busy=sum(_busy(core) for core in cores),
        stolen=sum(getattr(core, "steal", 0.0) for core in cores),
        throttled=_throttled_seconds(),
        thermal_events=_thermal_events(),
    )


def _cores() -> list[object]:
    """The times of the cores that this process may use."""
    cores: list[object] = list(psutil.cpu_times(percpu=True))
    if hasattr(os, "sched_getaffinity"):
        return [cores[number] for number in os.sched_getaffinity(0) if number < len(cores)]
    return cores


def _busy(core: object) -> float:
    """Seconds of work. Guests are part of `user`."""
    fields = ("user", "nice", "system", "irq", "softirq")
    return sum(float(getattr(core, field, 0.0)) for field in fields)


def _own_cpu_seconds() -> float:
    """CPU seconds of this process and its descendants, also of those that have ended."""
    own = psutil.Process()
    total = 0.0
    for process in (own, *own.children(recursive=True)):
        with suppress(psutil.Error):
            times = process.cpu_times()
            total += times.user + times.system
            total += getattr(times, "children_user", 0.0) + getattr(times, "children_system", 0.0)
    return total


def _throttled_seconds() -> float | None:
    """Seconds for which the control group (v2) of this process had no CPU quota left."""
    with suppress(OSError, ValueError):
        group = Path("/proc/self/cgroup").read_text(encoding="ascii").strip().rpartition("::/")[2]
        for folder in (CGROUP / group, CGROUP):
            statistics = folder / "cpu.stat"
            if statistics.is_file():
                lines = statistics.read_text(encoding="ascii").splitlines()
                values = dict(line.split(maxsplit=1) for line in lines)
                return int(values["throttled_usec"]) / 1e6 if "throttled_usec" in values else None
    return None


def _thermal_events() -> int | None:
    """How often the cores were slowed because they were hot, since the start of the system."""
    with suppress(OSError, ValueError):
        paths = list(Path("/sys/devices/system/cpu").glob(THERMAL))
        return sum(int(path.read_text(encoding="ascii")) for path in paths) if paths else None
    return None


class MachineWatch:
    """The watch of one launch, from before its start until after its end.

    Readings that fail are left out: they never fail a launch. A launch without measured steps has
    no times, so nothing is read.
    """

    def __init__(self, job: Job, *, launched: bool = True) -> None:
        cluster = job.workload.cluster
        ranks_here = min(job.ranks, cluster.ranks_per_node)
        self.cores = available_cores()
        self.wanted_cores = min(self.cores, ranks_here * job.threads_per_rank)
        measured = [index for index, phase in enumerate(job.phases) if phase == "measured"]
        self.reads = launched and bool(measured)
        self.window_steps = (measured[0] - 1, measured[-1]) if measured else ()
        self.on_gpu = cluster.device == "cuda"
        self.gpus = ranks_here
        self.clock_reasons: set[str] = set()
        self.foreign_gpu_processes: list[int] = []
        self.window: list[Counters] = []
        self.kernel_before = self._kernel() if self.reads else None
        self.whole = self._counters()

    def reporting(self, report: Callable[[Progress], None]) -> Callable[[Progress], None]:
        """Pass on the progress of the launch, then read the counters at the right steps."""

        def step(progress: Progress) -> None:
            report(progress)
            if progress.step in self.window_steps:
                self.window += self._counters()
            if self.on_gpu and progress.report.phase == "measured":
                self._read_gpus()

        return step

    def _read_gpus(self) -> None:
        self.clock_reasons |= gpus.lowered_clocks()
        foreign = gpus.foreign_processes(self.gpus)
        self.foreign_gpu_processes += [] if foreign is None else [foreign]

    def end(self, record: Record) -> Record:
        """The record with the readings; those of the kernel and the counters are made again."""
        if not self.reads:
            return record
        return msgspec.structs.replace(record, machine_state=self._state())

    def _state(self) -> MachineState:
        self.whole += self._counters()
        kernel_after = self._kernel()
        kernels = [reading for reading in (self.kernel_before, kernel_after) if reading is not None]
        state = MachineState(
            cores=self.cores,
            wanted_cores=self.wanted_cores,
            kernel_before_seconds=self.kernel_before.median if self.kernel_before else None,
            kernel_after_seconds=kernel_after.median if kernel_after else None,
            kernel_spread=max((reading.relative for reading in kernels), default=None),
            gpu_clock_reasons=sorted(self.clock_reasons),
            foreign_gpu_processes=max(self.foreign_gpu_processes, default=None),
            cpu_mhz=cpu_mhz(),
        )
        return self._with_window(state)

    def _kernel(self) -> Spread | None:
        try:
            return read_kernel(self.wanted_cores)
        except (RuntimeError, OSError):
            return None

    def _counters(self) -> list[Counters]:
        if not self.reads:
            return []
        with suppress(psutil.Error, OSError):
            return [read_counters()]
        return []

    def _with_window(self, state: MachineState) -> MachineState:
        for readings in (self.window, self.whole):
            if len(readings) == 2 and readings[1].time - readings[0].time >= LEAST_WINDOW_SECONDS:
                return between(state, *readings)
        return state


def between(state: MachineState, first: Counters, last: Counters) -> MachineState:
    """The state with the differences of two readings. Load of others is never below zero."""
    own = last.own - first.own
    thermal = throttled = None
    if first.thermal_events is not None and last.thermal_events is not None:
        thermal = last.thermal_events - first.thermal_events
    if first.throttled is not None and last.throttled is not None:
        throttled = last.throttled - first.throttled
    return msgspec.structs.replace(
        state,
        window_seconds=last.time - first.time,
        own_cpu_seconds=own,
        foreign_cpu_seconds=max(0.0, last.busy - first.busy - own),
        stolen_cpu_seconds=last.stolen - first.stolen,
        throttled_seconds=throttled,
        thermal_events=thermal,
    )
