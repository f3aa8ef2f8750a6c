"""One measurement: a fresh process that times a target in its source tree."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack, suppress

import msgspec

from benchmarks.environment import child_environment, import_path
from benchmarks.regression.compare.trees import Tree, TreeError
from benchmarks.regression.targets.target import SCHEMA, Measurement
from benchmarks.worker.parent import parent_variable

MODULE = "benchmarks.regression.targets.timed"

LONGEST_SECONDS = 900.0
"""Of one measurement, far beyond the longest job: a hanging process ends the command."""

PATIENCE_SECONDS = 20.0
"""How long an interrupted process may take to end its launches."""


class NoTargetError(TreeError):
    """A tree does not have this target."""


def measure(tree: Tree, target: str) -> Measurement:
    """Time a target once. Raises TreeError where the tree cannot be timed."""
    return read(tree, target, *_run(tree, [MODULE, target]))


def check(tree: Tree, target: str) -> None:
    """Run a target once, untimed: its tree can be timed, and its files are compiled.

    A job is only looked up: its launches would cost a minute. Raises TreeError.
    """
    arguments = [MODULE, target, "--check"]
    read(tree, target, *_run(tree, arguments))


def read(tree: Tree, target: str, code: int, output: str, errors: str) -> Measurement:
    """The measurement that a process has printed, without its folder. Raises TreeError."""
    last = (errors.strip().splitlines() or ["no reason given"])[-1]
    if code:
        if "No module named" in last and MODULE.rpartition(".")[0] in last:
            raise TreeError(
                f"{tree.words} has no {MODULE}: it is older than `sppo-bench compare`; name a "
                "later commit"
            )
        if last.startswith("unknown target"):
            raise NoTargetError(f"{tree.words} has no target {target!r}")
        raise TreeError(f"{tree.words} cannot be timed: {target} ended with {code}: {last}")
    line = (output.strip().splitlines() or [""])[-1]
    try:
        schema = msgspec.json.decode(line, type=dict[str, object]).get("schema")
        if schema != SCHEMA:
            raise TreeError(
                f"{tree.words} prints times of schema {schema!r}, not {SCHEMA!r}: compare commits "
                "of one schema"
            )
        measurement = msgspec.json.decode(line, type=Measurement)
    except msgspec.DecodeError:
        raise TreeError(f"{tree.words} prints no measurement of {target}: {line!r}") from None
    if measurement.package != str(tree.folder.resolve() / "benchmarks"):
        raise TreeError(
            f"{tree.words}: the process has imported {measurement.package}, not its own tree: "
            "uninstall that copy, or take it off PYTHONPATH"
        )
    return msgspec.structs.replace(measurement, package="")


def _run(tree: Tree, module: Sequence[str]) -> tuple[int, str, str]:
    """Exit code, output and errors of `python -m MODULE ...` with this tree's packages."""
    variables = {
        **import_path(tree.folder),
        **parent_variable(),
        "OMP_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
    }
    with (
        subprocess.Popen(
            [sys.executable, "-m", *module],
            cwd=tree.folder,
            env=child_environment(variables),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        ) as process,
        ExitStack() as undo,
    ):
        undo.callback(_end, process)
        try:
            output, errors = process.communicate(timeout=LONGEST_SECONDS)
        except subprocess.TimeoutExpired:
            raise TreeError(
                f"{tree.words}: a measurement took over {LONGEST_SECONDS:g} s"
            ) from None
        undo.pop_all()
    return process.returncode, output, errors


def _end(process: subprocess.Popen[str]) -> None:
    """End the process and its launches, which are its process group."""
    end = time.monotonic() + PATIENCE_SECONDS
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
        while time.monotonic() < end:
            process.poll()
            os.killpg(process.pid, 0)
            time.sleep(0.05)
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
