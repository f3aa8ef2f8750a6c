"""Does a command that is ended by a signal leave anything behind? Every launching verb and signal.

    python -m tests.soak.signals

A signal is sent to the command's process, or to all its group as a closed terminal does. Exits 1 if
a process lives on, if weights or tokens stay, if a record is damaged, or on another exit code.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psutil

from benchmarks.cli import ENDING_SIGNALS
from benchmarks.records import record as records

INTERRUPTED = 130
PATIENCE_SECONDS = 240.0
"""Until ranks have started, and until all have ended, on a busy machine."""

SHORT = ("--launches", "1", "--measured-steps", "200", "--time-limit", "600")
ROWS = ("mini-cpu", "--systems", "sppo", *SHORT, "--no-wandb")
STUDY = ROWS
MODEL = ("--model", "gpt-7b", "--seq", "1M", "--gpus", "32")
VERBS = {
    "run": ("run", *ROWS),
    "sweep": ("sweep", *STUDY, "--device-memory", "152MiB"),
    "emulate": ("emulate", "megatron", *MODEL, "--tp", "8", "--pp", "4", "--again"),
    "profile": ("profile", "measured", "--ranks", "2"),
}
"""Commands that run for longer than a test."""

WORKERS = {
    "run": "benchmarks.worker.rank",
    "sweep": "benchmarks.worker.rank",
    "emulate": "benchmarks.emulation.worker",
    "profile": "benchmarks.worker.rates.measure_hardware",
}


@dataclass(frozen=True, kw_only=True)
class Case:
    """A verb that is ended by a signal. to_group: as a terminal sends the signal."""

    verb: str
    signal: signal.Signals
    to_group: bool = False

    def __str__(self) -> str:
        return f"{self.verb} {self.signal.name}{' to its group' if self.to_group else ''}"


CASES = [
    Case(verb=verb, signal=number, to_group=to_group)
    for verb in VERBS
    for number, to_group in (
        (signal.SIGHUP, False),
        (signal.SIGHUP, True),
        (signal.SIGQUIT, False),
        (signal.SIGTERM, False),
        (signal.SIGINT, True),
        (signal.SIGKILL, False),
    )
]


def faults(case: Case, folder: Path) -> list[str]:
    """Run the verb in an empty folder, end it while its ranks run; what was wrong."""
    output = folder / "profile.json" if case.verb == "profile" else folder / "runs"
    command = [sys.executable, "-m", "benchmarks", *VERBS[case.verb], "--output", str(output)]
    with (folder / "words.txt").open("wb") as words:
        process = subprocess.Popen(
            command,
            cwd=folder,
            stdout=words,
            stderr=words,
            start_new_session=True,
            preexec_fn=default_signals,
        )
    family = [psutil.Process(process.pid)]
    try:
        if not until(lambda: is_working(case, process.pid, folder)):
            return ["no rank has started", (folder / "words.txt").read_text()]
        family += family[0].children(recursive=True)
        before = {path: path.read_bytes() for path in folder.rglob(records.FILE_NAME)}
        send = os.killpg if case.to_group else os.kill
        send(process.pid, case.signal)
        return [*exit_faults(case, process), *remains(case, family, before, folder)]
    finally:
        for member in family:
            if member.is_running():
                member.kill()
        process.wait()


def default_signals() -> None:
    """As in a terminal: a job in the background, or under nohup, ignores some of them."""
    for number in ENDING_SIGNALS:
        signal.signal(number, signal.SIG_DFL)


def is_working(case: Case, process_id: int, folder: Path) -> bool:
    """Whether a rank of the measured row, or of the emulation, runs."""
    if case.verb in ("run", "sweep") and not list(folder.rglob("sppo-1/where-1")):
        return False
    children = psutil.Process(process_id).children(recursive=True)
    return sum(WORKERS[case.verb] in words(child) for child in children) >= 2


def words(process: psutil.Process) -> str:
    """The command line; "" of a process that has ended."""
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def until(condition: Callable[[], bool]) -> bool:
    """Wait for the condition; whether it came true."""
    end = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.1)
    return False


def exit_faults(case: Case, process: subprocess.Popen[bytes]) -> list[str]:
    expected = -case.signal if case.signal == signal.SIGKILL else INTERRUPTED
    try:
        code = process.wait(PATIENCE_SECONDS)
    except subprocess.TimeoutExpired:
        return ["the command does not end"]
    return [] if code == expected else [f"exit code {code}, expected {expected}"]


def remains(
    case: Case, family: list[psutil.Process], before: dict[Path, bytes], folder: Path
) -> list[str]:
    """Processes, inputs and damaged records. A killed command cannot remove its inputs."""
    remaining = []
    if not until(lambda: not any(is_alive(member) for member in family)):
        remaining += [f"lives on: {words(member)}" for member in family if is_alive(member)]
    if case.signal != signal.SIGKILL:
        inputs = [*folder.rglob("weights.pt"), *folder.rglob("tokens.npy")]
        remaining += [f"stays: {path.name}" for path in inputs]
        text = (folder / "words.txt").read_text("utf-8", "replace")
        remaining += ["a traceback"] if "Traceback" in text else []
    remaining += [f"changed: {path}" for path, data in before.items() if path.read_bytes() != data]
    for path in folder.rglob(records.FILE_NAME):
        records.read(path)
    return remaining


def is_alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def main() -> int:
    bad = 0
    for case in CASES:
        with tempfile.TemporaryDirectory() as folder:
            start = time.monotonic()
            wrong = faults(case, Path(folder))
            bad += bool(wrong)
            print(f"{case}: {'; '.join(wrong) or 'nothing left'}", end="")
            print(f" ({time.monotonic() - start:.0f} s)", flush=True)
    print(f"{len(CASES) - bad} of {len(CASES)} commands left nothing behind")
    return int(bad > 0)


if __name__ == "__main__":
    sys.exit(main())
