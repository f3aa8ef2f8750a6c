"""`run.json`: what the command of a folder measures, and where. The page: docs/resume.md."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from benchmarks.launch.resuming import ResumeError
from benchmarks.records import store
from sppo.config.workload import Workload

SCHEMA = "sppo-run/1"
NAME = "run.json"

MACHINE = ("cpu_model", "cores", "gpus", "python")
"""Facts of the machine that must be the same where a command takes times."""

SAID = {"commit": "commit", "dirty": "changed files", "platform": "system"}
"""Facts of the environment that may differ; the difference is said."""

SAID_OF_COUNTS = {"cpu_model": "processor", "cores": "number of cores", "python": "Python"}
"""The same for a command that only counts: counts of emulated code do not depend on these."""

NO_MEASUREMENT = (
    *("WANDB", "OMP_NUM_THREADS", "MKL_NUM_THREADS"),
    *("NCCL_DEBUG", "TORCH_NCCL_DEBUG_INFO", "UCX_LOG_FILE"),
)
"""Beginnings of versions and variables that may differ: every launch sets its own threads, and a
job may write logs of its own."""


class RunFile(msgspec.Struct, frozen=True, kw_only=True):
    """The plan of a folder.

    arguments: the flags that decide what is measured. rows: label -> settings, where they are
    known before the first launch. code: digests of emulated code by system. environment: of the
    first start. finished: whether the command came to its end. started: UTC time of the first
    start, "" in older folders.
    """

    schema: str = SCHEMA
    command: str
    arguments: list[str]
    workload: Workload
    rows: dict[str, str] = {}
    code: dict[str, str] = {}
    environment: dict[str, Any]
    finished: bool = False
    started: str = ""


def read(directory: Path) -> RunFile:
    """The plan of a folder. Raises ResumeError."""
    try:
        return store.read_json(directory / NAME, RunFile, SCHEMA, "measure anew without --resume")
    except OSError as error:
        raise ResumeError(
            f"{directory / NAME}: {error.strerror}; name the folder of a stopped command"
        ) from None
    except store.RecordError as error:
        raise ResumeError(error) from None


def write(directory: Path, plan: RunFile) -> None:
    """Write the plan into its folder. Raises OSError."""
    store.save(directory / NAME, plan)


def go_on_command(command: str, arguments: Sequence[str], directory: Path) -> str:
    """The command that goes on in the folder, as a line for a shell."""
    return shlex.join(["sppo-bench", command, *arguments, "--resume", str(directory)])


def check(directory: Path, before: RunFile, now: RunFile) -> list[str]:
    """The differences that are only said. Raises ResumeError on one that is refused."""
    _check_request(directory, before, now)
    anew = "or measure anew without --resume"
    for label in sorted({*before.rows, *now.rows}):
        if before.rows.get(label) != now.rows.get(label):
            raise ResumeError(
                f"{directory}: {label} has other settings than before; restore its tuning file "
                f"and the code, {anew}"
            )
    for system, digest in before.code.items():
        if now.code.get(system) != digest:
            raise ResumeError(
                f"{directory}: the code that emulates {system} has changed; check out commit "
                f"{before.environment.get('commit')}, {anew}"
            )
    for name, old, new in _measuring(before, now):
        raise ResumeError(
            f"{directory}: measured with {name} {old}, here is {new}; restore that, {anew}"
        )
    said = {**SAID, **SAID_OF_COUNTS} if before.code else SAID
    return [
        f"note: another {words} than before: {before.environment.get(key)}"
        for key, words in said.items()
        if before.environment.get(key) != now.environment.get(key)
    ]


def _check_request(directory: Path, before: RunFile, now: RunFile) -> None:
    line = go_on_command(before.command, before.arguments, directory)
    if (before.command, _asked(before)) != (now.command, _asked(now)):
        raise ResumeError(f"{directory} belongs to another command; go on with: {line}")
    nodes, nodes_now = before.workload.cluster.nodes, now.workload.cluster.nodes
    if nodes != nodes_now:
        raise ResumeError(
            f"{directory}: measured on {nodes} nodes, here {nodes_now}; give --nodes {nodes}"
        )
    if before.workload != now.workload:
        raise ResumeError(
            f"{directory}: the workload {before.workload.name} has changed since; "
            "measure anew without --resume"
        )


def _asked(plan: RunFile) -> list[str]:
    """The arguments without the number of nodes: a launcher outside may give it instead."""
    arguments = list(plan.arguments)
    if "--nodes" in arguments:
        place = arguments.index("--nodes")
        del arguments[place : place + 2]
    return arguments


def _measuring(before: RunFile, now: RunFile) -> Iterator[tuple[str, Any, Any]]:
    """Differing facts of machine, libraries and variables: name, before, now."""
    for name in MACHINE:
        if before.code and name in SAID_OF_COUNTS and _is_patch(name, before, now):
            continue
        yield from _differing(
            {name: before.environment.get(name)}, {name: now.environment.get(name)}
        )
    for kind in ("versions", "variables"):
        yield from _differing(before.environment.get(kind, {}), now.environment.get(kind, {}))


def _is_patch(name: str, before: RunFile, now: RunFile) -> bool:
    """Whether two Pythons differ by their patch release at most; yes for other facts."""
    if name != "python":
        return True
    old, new = (str(plan.environment.get(name)).split(".")[:2] for plan in (before, now))
    return old == new


def _differing(before: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    for name in sorted({*before, *now}):
        if before.get(name) != now.get(name) and not name.upper().startswith(NO_MEASUREMENT):
            yield name, before.get(name, "none"), now.get(name, "none")
