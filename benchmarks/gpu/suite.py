"""The steps in their order, each in a process of its own, within a budget of minutes."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from benchmarks.environment import describe_environment
from benchmarks.gpu.step import Step, StepFile, StepStatus, path_of, read
from benchmarks.launch.ranks import processes
from benchmarks.records import store

STEPS = (
    Step(
        name="machine",
        shows="versions, and the memory that the driver leaves",
        seconds=20,
        action="machine:describe",
    ),
    Step(
        name="tests",
        shows="tests/gpu: attention, copies and whole steps give the numbers of a CPU",
        seconds=75,
        action="checks:gpu_tests",
    ),
    Step(
        name="sanitizer",
        shows="a step of each policy under torch's CUDA sanitizer: unordered accesses",
        seconds=45,
        action="checks:sanitized_steps",
    ),
    Step(
        name="attention",
        shows="every kernel of attention against float64, and its time",
        seconds=40,
        action="attention:kernels",
    ),
    Step(
        name="profile",
        shows="rates by length, copies, pinning: profile.json for the planner",
        seconds=80,
        action="profile:profile",
    ),
    Step(
        name="offload",
        shows="full offload against none at 32K: time, and peak beside the plan",
        seconds=45,
        action="training:offload",
    ),
    Step(
        name="slice",
        shows="7B-wide layers at 128K: CUDA events beside the simulator",
        seconds=70,
        action="training:wide_slice",
    ),
    Step(
        name="stages",
        shows="two stages as two threads",
        seconds=35,
        action="training:two_stages",
    ),
    Step(
        name="groups",
        shows="a world of one: every kind of group, and a communicator's memory",
        seconds=20,
        action="groups:world",
    ),
    Step(
        name="run-16k",
        shows="SPPO, Megatron in the same layout and DeepSpeed at 16K",
        seconds=80,
        action="runs:run_16k",
    ),
    Step(
        name="run-32k",
        shows="the same at 32K",
        seconds=90,
        action="runs:run_32k",
    ),
)

WHOLE_SECONDS = sum(step.seconds for step in STEPS)
START_SECONDS = 10.0
"""The least limit of a step: it imports torch and starts the device."""

UNAVAILABLE = 3
"""The exit code of a step's process that says what is lacking here."""


@dataclass(frozen=True, kw_only=True)
class Timed:
    """A step, its number, and the most seconds it may take where no step before it saved time."""

    number: int
    step: Step
    limit_seconds: float


def timed_steps(minutes: float) -> list[Timed]:
    """The steps with their shares of the minutes. Raises ValueError on too few."""
    share = minutes * 60 / WHOLE_SECONDS
    least = START_SECONDS / min(step.seconds for step in STEPS) * WHOLE_SECONDS / 60
    if share * min(step.seconds for step in STEPS) < START_SECONDS:
        raise ValueError(f"--minutes {minutes:g}: take at least {least:.3g}, or steps cannot start")
    return [
        Timed(number=number, step=step, limit_seconds=share * step.seconds)
        for number, step in enumerate(STEPS, 1)
    ]


def run(directory: Path, minutes: float, device: str, say: Callable[[str], None]) -> list[StepFile]:
    """Run the steps that have no file with values yet; the files of all steps, in order.

    Time that a step leaves goes to the steps after it. Raises OSError, RecordError.
    """
    environment = describe_environment()
    files: list[StepFile] = []
    saved_seconds = 0.0
    for timed in timed_steps(minutes):
        path = path_of(directory, timed.number, timed.step)
        before = read(path) if path.is_file() else None
        if before is not None and before.status in ("ok", "unavailable"):
            files.append(before)
            say(f"{timed.step.name}: {before.status}, measured before")
            continue
        limit_seconds = timed.limit_seconds + saved_seconds
        say(f"{timed.step.name}: {timed.step.shows}, at most {limit_seconds:.0f} s ...")
        done = run_step(timed, directory, device, limit_seconds, environment)
        saved_seconds = max(0.0, limit_seconds - done.seconds)
        store.save(path, done)
        files.append(done)
        say(line(done))
    return files


def line(file: StepFile) -> str:
    """A step's end in one line."""
    reason = f": {file.reason}" if file.reason else ""
    return f"{file.step}: {file.status} in {file.seconds:.0f} s{reason}"


def run_step(
    timed: Timed, directory: Path, device: str, limit_seconds: float, environment: dict[str, Any]
) -> StepFile:
    """Run a step in a process of its own, and stop it at its limit."""
    started, began = datetime.now(UTC), time.monotonic()
    values_path = directory / f"{timed.number:02d}-{timed.step.name}.values.json"
    values_path.unlink(missing_ok=True)
    status, reason = _ended(
        command(timed.step, device, limit_seconds, directory, values_path),
        directory / f"{timed.number:02d}-{timed.step.name}.log",
        limit_seconds,
    )
    values = {}
    if values_path.is_file():
        values = msgspec.json.decode(values_path.read_bytes())
        values_path.unlink()
    described: dict[str, Any] = environment
    return StepFile(
        step=timed.step.name,
        status=status,
        reason=reason,
        machine=", ".join(described["gpus"]) or described["cpu_model"],
        commit=described["commit"],
        dirty=described["dirty"],
        versions=described["versions"],
        started=f"{started:%Y-%m-%dT%H:%M:%SZ}",
        seconds=time.monotonic() - began,
        limit_seconds=limit_seconds,
        values=values,
    )


def command(
    step: Step, device: str, limit_seconds: float, directory: Path, values_path: Path
) -> list[str]:
    """The process of a step."""
    module = "benchmarks.gpu.worker"
    words = [step.name, device, f"{limit_seconds:.0f}", str(directory), str(values_path)]
    return [sys.executable, "-m", module, *words]


def _ended(arguments: Sequence[str], log: Path, limit_seconds: float) -> tuple[StepStatus, str]:
    """The end of a step's process, with its last line as the reason; its output is in the log."""
    tree = processes.start(arguments, processes.variables(1, {}))
    output = b""
    late = False
    try:
        output, _ = tree.process.communicate(timeout=limit_seconds)
    except subprocess.TimeoutExpired as error:
        late, output = True, error.output or b""
    finally:
        tree.note()
        tree.stop()
        store.write_bytes(log, output)
    lines = list(_lines(output))
    last = lines[-1] if lines else "no output"
    if late:
        return "timeout", f"no end after {limit_seconds:.0f} s; {log.name} has its output"
    if tree.process.returncode == 0:
        return "ok", ""
    if tree.process.returncode == UNAVAILABLE:
        return "unavailable", last
    return "failed", f"{last} ({log.name})"


def _lines(output: bytes) -> Iterator[str]:
    for text in output.decode("utf-8", "replace").splitlines():
        if text.strip():
            yield text.strip()
