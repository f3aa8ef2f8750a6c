"""`sppo-bench table`: the table of a run, from its records."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from benchmarks.commands.arguments import usage_errors
from benchmarks.commands.flags import Json
from benchmarks.commands.output import show_records
from benchmarks.launch.gate import exit_code
from benchmarks.records import record


@dataclass(frozen=True, kw_only=True)
class Table(Json):
    """Print the table of a run, from its records alone.

    Example: sppo-bench table results/runs/20261124-072759-tiny-cpu
    """

    directory: Annotated[Positional[Path], arg(metavar="DIR")]
    """A folder of `sppo-bench run`."""

    def run(self) -> int:
        """Show the table; the exit code is the run's. Raises UsageError."""
        with usage_errors():
            done = record.read_all(self.directory)
        show_records(done, self.directory, self.json)
        return exit_code(done)
