"""From flags to a workload, options and the plan. Wrong input is a UsageError."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from benchmarks import workload_files, workloads
from benchmarks.commands.flags import (
    Data,
    Degrees,
    Described,
    Launched,
    Launches,
    RunFolder,
    Selection,
)
from benchmarks.commands.output import show
from benchmarks.file_names import printable
from benchmarks.launch.options import LAUNCHES, REFERENCE_STEPS, STEPS, STEPS_IN_TURN, Options
from benchmarks.launch.ranks.team import NodeLost
from benchmarks.records import store
from benchmarks.records.machine_errors import machine_words
from benchmarks.records.store import is_text
from benchmarks.rows.assign import sppo_plan
from benchmarks.rows.row import find
from sppo.config.errors import Infeasible, NotSupported
from sppo.config.sizes import parse_bytes
from sppo.config.workload import Cluster, Workload
from sppo.plan.plan import Plan
from sppo.planner.options import SolverOptions

MODEL_FLAGS = ("model", "seq", "gpus", "hardware")
"""The flags that describe a workload without a name."""

DEGREE_FLAGS = tuple(field.name for field in fields(Degrees))
"""The flags that fix a layout."""

SOLVER_FLAGS = (
    *DEGREE_FLAGS,
    "policy",
    "solver",
    "cut",
    "stage_sharding",
    "weights",
    "exchange_pieces",
)
"""The flags that are options of the solver, under the same names."""

LONGEST_TIME_LIMIT_SECONDS = 1e7
"""About four months. Libraries count milliseconds in integers and know no infinity."""


class UsageError(Exception):
    """Wrong input. The message is one line with the cure."""


@contextmanager
def usage_errors(*kinds: type[Exception]) -> Iterator[None]:
    """Turn ValueError, NotSupported and errors of `kinds` into a UsageError of the same message."""
    caught: tuple[type[Exception], ...] = (ValueError, NotSupported, *kinds)
    try:
        yield
    except caught as error:
        raise usage_error(error) from None


def usage_error(error: Exception) -> Exception:
    """The error as a UsageError. One after the first records, or a lost node, stays as it is."""
    if hasattr(error, "__notes__") or isinstance(error, NodeLost):
        return error
    return UsageError(machine_words(error) if isinstance(error, OSError) else error)


DATA_FLAGS = ("--data", "--text", "--tokenizer")
"""Flags of files to read: their names may hold any bytes."""


def check_values(arguments: Sequence[str]) -> None:
    """Raise UsageError on an empty value, and on a name that is to be written and is not UTF-8.

    An empty path would be the current folder.
    """
    for before, argument in zip(["sppo-bench", *arguments], arguments, strict=False):
        name, equals, value = argument.partition("=") if argument[:2] == "--" else ("", "", "")
        if not argument or (equals and not value):
            raise UsageError(
                f"{name or before} has an empty value (an unset variable?): give one, "
                "or leave it out"
            )
        if not is_text(argument) and before not in DATA_FLAGS and name not in DATA_FLAGS:
            raise UsageError(f"{argument!r} is not UTF-8; rename the file, or give another name")


def check_time_limit(seconds: float | None) -> None:
    """Raise UsageError on a time limit that is no number of seconds, such as nan or inf.

    None, no limit of the user's, is right.
    """
    if seconds is not None and not 0 < seconds <= LONGEST_TIME_LIMIT_SECONDS:
        raise UsageError(
            f"--time-limit {seconds:g}: the time limit must be positive, and at most "
            f"{LONGEST_TIME_LIMIT_SECONDS:g} s"
        )


def find_workload(name: str, device_memory: str | None) -> Workload:
    """The workload of a name or a file, with this limit if one is given. Raises UsageError."""
    with usage_errors():
        workload = workload_files.find(name)
        if device_memory is None:
            return workload
        return workload.with_device_memory(parse_bytes(device_memory))


def with_data(workload: Workload, command: Data) -> Workload:
    """The workload on the data of the flags, else on its own. Raises UsageError; opens nothing."""
    if command.data_field is not None and command.data is None:
        raise UsageError("--data-field names a field of JSONL: give the file by --data")
    given = given_flags(command, ("data", "data_field", "tokenizer"))
    for name, value in given.items():
        if not value.strip():
            raise UsageError(
                f"{flag(name)} has an empty value (an unset variable?): give one, or leave "
                f"{flag(name)} out"
            )
    words = {name: printable(value) for name, value in given.items()}
    if "data" in words:
        workload = replace(workload, text=words["data"], data_field=None, tokenizer=None)
    return replace(
        workload,
        data_field=words.get("data_field", workload.data_field),
        tokenizer=words.get("tokenizer", workload.tokenizer),
    )


def find_selected(command: Selection) -> Workload:
    """The workload of the flags, with their sequences a step. Raises UsageError."""
    check_positive(command, ("sequences_per_step", *DEGREE_FLAGS))
    workload = find_described(command) or find_workload(workloads.DEFAULT, command.device_memory)
    if command.sequences_per_step is not None:
        workload = replace(workload, sequences_per_step=command.sequences_per_step)
    return workload


def find_launched(command: Launched) -> Workload:
    """The workload to launch. With other sequences a step its name says so, for its grids.

    Raises UsageError.
    """
    check_positive(command, ("sequences_per_step",))
    if command.workload == workloads.DEFAULT and given_flags(command, MODEL_FLAGS):
        command = replace(command, workload=None)
    workload = find_described(command)
    assert workload is not None, "a name or a flag was given"
    with usage_errors():  # a profile of the user's may have any name
        workload_files.check_name("the workload's name", workload.name)
    count = command.sequences_per_step
    if count is None or count == workload.sequences_per_step:
        return workload
    return replace(workload, name=f"{workload.name}-{count}-sequences", sequences_per_step=count)


def find_described(command: Described) -> Workload | None:
    """The workload by its name, its file or the four model flags; None without any.

    Raises UsageError.
    """
    check_positive(command, ("gpus",))
    given = given_flags(command, MODEL_FLAGS)
    if not given and command.workload is None:
        return None
    if not given:
        return find_workload(str(command.workload), command.device_memory)
    if command.workload is not None:
        raise UsageError(
            f"{command.workload} names a workload and {flag(next(iter(given)))} describes one: "
            "give the name or the model flags, not both"
        )
    missing = [flag(name) for name in MODEL_FLAGS if name not in given]
    if missing:
        raise UsageError(
            f"{', '.join(missing)} missing: a workload by flags needs --model NAME --seq "
            "TOKENS --gpus COUNT --hardware PROFILE"
        )
    with usage_errors():
        return workloads.of_flags(**given, device_memory=command.device_memory)


def given_flags(command: Any, names: Sequence[str]) -> dict[str, Any]:
    """The flags among `names` that were given, with their values."""
    return {name: getattr(command, name) for name in names if getattr(command, name) is not None}


def solver_options(command: Selection) -> SolverOptions:
    """The solver's options from the given flags. Raises UsageError."""
    with usage_errors():
        return SolverOptions(**solver_flags(command))


def solver_flags(command: Selection) -> dict[str, Any]:
    """The given flags, by the names of the solver's options. Raises UsageError."""
    given = given_flags(command, SOLVER_FLAGS)
    if command.msp and command.no_msp:
        raise UsageError("--msp and --no-msp: give one; without either the solver decides")
    if command.msp or command.no_msp:
        given["msp"] = command.msp
    return given


def planned(command: Selection) -> Plan:
    """SPPO's plan for the flags. Raises UsageError or Infeasible."""
    with usage_errors():
        return sppo_plan(find_selected(command), solver_options(command))


def show_infeasible(command: object, error: Infeasible) -> int:
    """Show why no plan fits; the exit code."""
    values = {"status": "infeasible", "reason": str(error)}
    as_json = isinstance(command, Selection) and command.json
    if isinstance(command, Selection):
        values = {"workload": find_selected(command).name, **values}
    show(as_json, values, f"infeasible: {error}")
    return 1


def flag(name: str) -> str:
    """The flag of a field: "device_memory" -> "--device-memory"."""
    return f"--{name.replace('_', '-')}"


def check_positive(command: Described | Degrees, names: tuple[str, ...]) -> None:
    """Raise UsageError if one of these numbers was given and is below 1."""
    for name, value in given_flags(command, names).items():
        if isinstance(value, int) and value < 1:
            raise UsageError(f"{flag(name)} {value}: it must be at least 1")


def options(command: Launches, cluster: Cluster) -> Options:
    """The supervisor's options from the flags, for the ranks of this cluster.

    Raises UsageError on impossible numbers, or too few steps for the equal-work gate.
    """
    check_time_limit(command.time_limit)
    launches = LAUNCHES[cluster.device] if command.launches is None else command.launches
    in_turns = can_take_turns(cluster) and command.interleave != "launches"
    measured_steps = command.measured_steps
    if measured_steps is None:
        measured_steps = STEPS_IN_TURN if in_turns else STEPS
    with usage_errors():
        options = Options(
            launches=launches,
            warmup_steps=command.warmup_steps,
            measured_steps=measured_steps,
            time_limit_seconds=command.time_limit,
            budget_seconds=command.budget,
            in_turns=in_turns,
        )
    if command.interleave == "steps" and not options.in_turns:
        raise UsageError(
            "--interleave steps needs CPU ranks on one node: rows do not share the memory of a "
            "GPU; leave the flag out"
        )
    if options.measured_steps < 1:
        raise UsageError("measured_steps must be at least 1")
    if options.steps < REFERENCE_STEPS:
        raise UsageError(
            f"{options.steps} optimizer steps a launch are too few to compare losses over "
            f"{REFERENCE_STEPS}: raise --measured-steps or --warmup-steps"
        )
    return options


def can_take_turns(cluster: Cluster) -> bool:
    """Whether the processes of all rows may be alive at once."""
    return cluster.device == "cpu" and cluster.nodes == 1


def parent(command: RunFolder) -> Path:
    """The folder that gets the run's folder. Raises UsageError for a name outside UTF-8."""
    folder = command.output or store.results_directory() / "runs"
    if not is_text(os.path.realpath(folder)):
        raise UsageError(
            f"{printable(str(folder))} lies in a folder whose name is not UTF-8, which records "
            "cannot hold: name another folder by --output"
        )
    return folder


def names(items: tuple[str, ...]) -> list[str]:
    """Names given by comma, by space, or both."""
    return [name.strip().lower() for item in items for name in item.split(",") if name.strip()]


def chosen(items: tuple[str, ...], known: Sequence[str], what: str) -> list[str]:
    """The given names, each once; all known ones if none was given. Raises UsageError."""
    given = list(dict.fromkeys(names(items)))
    unknown = [name for name in given if name not in known]
    if unknown:
        raise UsageError(f"unknown {what} {unknown[0]!r}; known: {', '.join(known)}")
    return given or list(known)


def chosen_systems(items: tuple[str, ...], known: Sequence[str]) -> list[str]:
    """The systems of the given rows, named as for `run`; all known ones if none was given.

    Raises UsageError.
    """
    with usage_errors(ImportError):
        rows = find(names(items)) if names(items) else ()
    return chosen(tuple(row.system for row in rows), known, "system")


def refuse(command: Any, names: Sequence[str], why: str) -> None:
    """Raise UsageError if one of these flags was given."""
    defaults = {field.name: field.default for field in fields(command)}
    for name in names:
        if getattr(command, name) != defaults[name]:
            raise UsageError(f"leave {flag(name)} out: {why}")
