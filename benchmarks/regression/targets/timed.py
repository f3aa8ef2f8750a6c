"""Time one target or job, and print its measurement as one line of JSON.

    python -m benchmarks.regression.targets.timed engine-step

A target runs in this process, which keeps to one thread and collects no garbage while the clock
runs. A job has processes of its own. Exits 1, with the last line of its errors, where a job fails;
2, with the known names, for an unknown target.
"""

from __future__ import annotations

import argparse
import gc
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec

import benchmarks
from benchmarks.records import record
from benchmarks.records.metrics import measured_seconds
from benchmarks.regression.targets.registry import JOBS, TARGETS
from benchmarks.regression.targets.target import Job, Measurement, Repetition, Target
from benchmarks.worker.parent import end_with_parent

WARM_UPS = 2
"""Untimed repetitions: the first ones fill caches and pools of memory."""

LEAST_REPETITIONS = 5
SECONDS = 0.8
"""Repetitions go on for so long, and at least LEAST_REPETITIONS times."""


def measure(target: Target, seconds: float = SECONDS) -> Measurement:
    """Prepare the target and time its repetitions."""
    with target.prepare() as repetition:
        for _ in range(WARM_UPS):
            repetition()
        times = _times(repetition, seconds)
    return _measurement(target.name, times)


def check(name: str) -> Measurement:
    """One repetition, whose time says nothing; a job is not launched, which takes a minute."""
    if name in JOBS:
        return _measurement(name, [0.0])
    with TARGETS[name].prepare() as repetition:
        repetition()
    return _measurement(name, [0.0])


def measure_job(job: Job) -> Measurement:
    """Launch the job of this source tree once. Raises RuntimeError where it fails."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "benchmarks", *job.arguments, "--output", folder]
        ended = subprocess.run(command, capture_output=True, text=True, check=False)
        if ended.returncode:
            words = (ended.stderr.strip().splitlines() or ["no reason given"])[-1]
            raise RuntimeError(f"exit code {ended.returncode}: {words}")
        (directory,) = Path(folder).iterdir()
        launches = [each for each in record.read_all(directory) if not each.is_reference]
    times = [seconds for launch in launches for seconds in measured_seconds(launch.steps)]
    if not times:
        states = ", ".join(f"{launch.status} {launch.reason}" for launch in launches)
        raise RuntimeError(f"no measured step: {states}")
    return _measurement(job.name, times)


def _measurement(name: str, times: Sequence[float]) -> Measurement:
    return Measurement(
        target=name,
        least_seconds=min(times),
        median_seconds=statistics.median(times),
        repetitions=len(times),
        package=str(Path(benchmarks.__file__).resolve().parent),
    )


def _times(repetition: Repetition, seconds: float) -> list[float]:
    """Seconds of each repetition. Garbage is collected between them, except what is there now."""
    times: list[float] = []
    gc.collect()
    gc.freeze()
    end = time.perf_counter() + seconds
    while len(times) < LEAST_REPETITIONS or time.perf_counter() < end:
        gc.collect()
        gc.disable()
        try:
            start = time.perf_counter()
            repetition()
            times.append(time.perf_counter() - start)
        finally:
            gc.enable()
    gc.unfreeze()
    return times


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit code: 1 for a failed job, 2 for an unknown target."""
    known = [*TARGETS, *JOBS]
    program = "python -m benchmarks.regression.targets.timed"
    parser = argparse.ArgumentParser(prog=program, description=__doc__)
    parser.add_argument("target", help=", ".join(known))
    parser.add_argument("--seconds", type=float, default=SECONDS, help="of all repetitions")
    parser.add_argument("--check", action="store_true", help="a single repetition, no job")
    asked = parser.parse_args(arguments)
    end_with_parent(signal.SIGKILL)
    if asked.target not in known:
        print(f"unknown target {asked.target!r}; known: {', '.join(known)}", file=sys.stderr)
        return 2
    try:
        if asked.check:
            measured = check(asked.target)
        elif asked.target in JOBS:
            measured = measure_job(JOBS[asked.target])
        else:
            measured = measure(TARGETS[asked.target], asked.seconds)
    except RuntimeError as error:
        print(error, file=sys.stderr)
        return 1
    print(msgspec.json.encode(measured).decode())
    return 0


if __name__ == "__main__":
    sys.exit(main())
