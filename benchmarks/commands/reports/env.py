"""`sppo-bench env`: the machine of the records, and pins of its packages."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import arg

from benchmarks.commands.flags import Json
from benchmarks.commands.output import show
from benchmarks.commands.package_list import RecordedMachine, recorded_machine
from benchmarks.environment import describe_environment
from benchmarks.file_names import printable
from benchmarks.machine.packages import installed_packages
from benchmarks.machine.pins import pins
from benchmarks.records.provenance import commit_words

NAME_COLUMNS = 14


@dataclass(frozen=True, kw_only=True)
class Env(Json):
    """Describe this machine as records do: system, fabric, container, packages, commit.

    Example: sppo-bench env --constraints > pins.txt; pip install -c pins.txt .
    """

    constraints: bool = False
    """Print the installed packages as pins for `pip install -c`."""
    record: Annotated[Path | None, arg(metavar="DIR_OR_JSON")] = None
    """The machine of this run instead: its folder, or one of its JSON files."""

    def run(self) -> int:
        """Show the machine, or its pins; the exit code. Raises RecordError."""
        machine = _this_machine() if self.record is None else recorded_machine(self.record)
        if self.constraints:
            lines = pins(machine.packages, self._notes(machine))
            values = {"is_complete": machine.is_complete, "constraints": lines}
            show(self.json, values, "\n".join(lines))
        else:
            show(self.json, _with_list(machine), "\n".join(_lines(machine.environment)))
        return 0

    def _notes(self, machine: RecordedMachine) -> list[str]:
        environment = machine.environment
        system = environment.get("os") or environment.get("platform")
        notes = [f"Python {machine.packages.python}, {system}, {commit_words(environment)}"]
        if self.record is not None:
            notes.append(f"Of {self.record}")
        if not machine.is_complete:
            notes.append("The list of all packages is not there: these are the main ones.")
        return notes


def _this_machine() -> RecordedMachine:
    return RecordedMachine(
        environment=describe_environment(), packages=installed_packages(), is_complete=True
    )


def _with_list(machine: RecordedMachine) -> dict[str, Any]:
    """The environment with the whole list of packages, where it is known."""
    environment, packages = machine.environment, machine.environment.get("packages")
    if not machine.is_complete or not isinstance(packages, dict):
        return environment
    return {**environment, "packages": {**packages, "list": machine.packages}}


def _lines(environment: dict[str, Any]) -> Iterator[str]:
    """A line for each value, and for each entry of a list of objects."""
    for name, value in environment.items():
        head = f"{printable(name)}:"
        for words in _parts(value) or ["none"]:
            yield f"{head:<{NAME_COLUMNS - 1}} {words}"
            head = ""


def _parts(value: object) -> list[str]:
    if isinstance(value, list) and any(isinstance(item, dict) for item in value):
        return [_words(item) for item in value]
    if isinstance(value, dict) and any(isinstance(item, list | dict) for item in value.values()):
        return [f"{printable(key)}: {part}" for key in value for part in _parts(value[key])]
    return [_words(value)]


def _words(value: object) -> str:
    """A list by semicolons, an object by commas."""
    if isinstance(value, list):
        return "; ".join(map(_words, value)) or "none"
    if isinstance(value, dict):
        pairs = (f"{printable(str(key))} {_words(item)}" for key, item in value.items())
        return ", ".join(pairs) or "none"
    return "unknown" if value is None else printable(str(value))
