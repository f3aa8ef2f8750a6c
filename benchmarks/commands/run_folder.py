"""The folder of a measuring command: a new one, or that of --resume, with the plan in run.json."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import MISSING, fields, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, get_type_hints

import msgspec
from tyro.conf import Positional

from benchmarks.commands import package_list
from benchmarks.commands.arguments import UsageError, flag, parent
from benchmarks.commands.flags import RunFolder
from benchmarks.environment import describe_environment
from benchmarks.file_names import printable
from benchmarks.launch import resuming, run_file
from benchmarks.launch.options import Options
from benchmarks.launch.ranks.team import NodeLost
from benchmarks.launch.run import new_directory
from benchmarks.launch.run_file import RunFile
from benchmarks.records import record
from benchmarks.records.machine_errors import records_so_far
from benchmarks.records.store import RecordError
from benchmarks.rows.row import Configuration
from sppo.config.workload import Workload

PLACE = ("output", "resume")
"""Flags that name a folder."""

NODE = ("node_rank", "endpoint", "node_wait")
"""Flags of one node of several."""

CHANGEABLE = (*PLACE, *NODE, "json", "publish", "no_wandb", "time_limit", "budget")
"""Flags that a resumed command may change."""


@contextmanager
def run_folder(
    command: RunFolder,
    workload: Workload,
    configurations: Sequence[Configuration] = (),
    code: Mapping[str, str] | None = None,
) -> Iterator[Path]:
    """The folder in which the command measures, locked. Its normal end is noted in run.json.

    configurations: rows that are known before the first launch. code: digests of emulated code.
    An interrupt and a lost node say how to go on. Raises UsageError on a folder that cannot be
    resumed.
    """
    plan = RunFile(
        command=name_of(command),
        arguments=words(command, without=CHANGEABLE),
        workload=workload,
        rows={row.row.label: row.key for row in configurations},
        code=dict(code or {}),
        environment=describe_environment(),
        started=f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%S.%fZ}",
    )
    try:
        directory, plan = _folder(command, plan)
        with _interrupts_said(command, directory), resuming.locked(directory):
            with ExitStack() as undo:
                undo.callback(_remove_if_empty, directory)
                if command.resume is not None:
                    resuming.end_orphans(directory)
                with records_so_far(directory):
                    yield directory
                undo.pop_all()
            run_file.write(directory, msgspec.structs.replace(plan, finished=True))
    except (resuming.ResumeError, RecordError) as error:
        raise UsageError(error) from None


def is_finished(command: RunFolder) -> bool:
    """Whether --resume names a folder whose command came to its end, and which is still whole.

    A user deletes a record to measure its launch a second time.
    """
    if command.resume is None or not run_file.read(command.resume.resolve()).finished:
        return False
    jobs = command.resume.rglob("job.json")
    return all(job.with_name(record.FILE_NAME).exists() for job in jobs)


def unfinished(command: RunFolder, options: Options) -> Options:
    """The options, without further launches where --resume names a finished folder."""
    return replace(options, budget_seconds=0.0) if is_finished(command) else options


def _folder(command: RunFolder, plan: RunFile) -> tuple[Path, RunFile]:
    """The new or resumed folder with its plan. Raises ResumeError, or UsageError without one."""
    if command.resume is None:
        try:
            directory = new_directory(parent(command), plan.workload.name)
            package_list.save_packages(directory)
            run_file.write(directory, plan)
        except OSError as error:
            raise UsageError(error) from None
        return directory, plan
    if command.output is not None:
        raise UsageError("leave --output out: --resume names the folder")
    directory = command.resume.resolve()
    before = run_file.read(directory)
    for difference in run_file.check(directory, before, plan):
        print(difference, file=sys.stderr)
    package_list.save_packages(directory)
    return directory, before


def _remove_if_empty(directory: Path) -> None:
    """Remove a folder in which nothing but run.json and the list of packages was written."""
    written = {*directory.glob("*")} - {*directory.glob(package_list.PATTERN)}
    if {path.name for path in written} <= {run_file.NAME}:
        shutil.rmtree(directory, ignore_errors=True)


@contextmanager
def _interrupts_said(command: RunFolder, directory: Path) -> Iterator[None]:
    """Say after an interrupt, or a lost node, where the records are, and how to go on."""
    try:
        yield
    except (KeyboardInterrupt, NodeLost):
        if (directory / run_file.NAME).exists():
            arguments = words(command, without=PLACE)
            line = run_file.go_on_command(name_of(command), arguments, directory)
            print(f"records so far: {directory}\ngo on with: {line}", file=sys.stderr)
        raise


def name_of(command: object) -> str:
    """The command's name on the command line."""
    return type(command).__name__.lower()


def words(command: Any, *, without: Sequence[str]) -> list[str]:
    """The command's arguments that differ from their defaults, positional ones first.

    A name of data that is no Unicode is as in records: it opens the same file.
    """
    hints = get_type_hints(type(command), include_extras=True)
    positional: list[str] = []
    flags: list[str] = []
    for field in fields(command):
        value = getattr(command, field.name)
        if field.name in without or (field.default is not MISSING and value == field.default):
            continue
        if isinstance(value, tuple):
            value = ",".join(map(str, value))
        if Positional in getattr(hints[field.name], "__metadata__", ()):
            positional.append(str(value))
        else:
            flags += [flag(field.name)] if value is True else [flag(field.name), str(value)]
    return list(map(printable, (*positional, *flags)))
