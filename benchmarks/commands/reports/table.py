"""`sppo-bench table`: the table of a run again, from its records."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from benchmarks.commands.arguments import UsageError
from benchmarks.commands.flags import Json
from benchmarks.commands.output import show_records
from benchmarks.records import record
from benchmarks.records.store import RecordError


@dataclass(frozen=True, kw_only=True)
class Table(Json):
    """Print the table of a run again, from its records alone.

    Example: sppo-bench table results/runs/20261124-072759-tiny-cpu
    """

    directory: Annotated[Positional[Path], arg(metavar="DIR")]
    """A folder that `sppo-bench run` has made."""

    def run(self) -> int:
        """Show the table; the exit code is the run's. Raises UsageError."""
        from benchmarks.launch.run import exit_code

        try:
            done = record.read_all(self.directory)
        except RecordError as error:
            raise UsageError(error) from None
        show_records(done, self.directory, self.json)
        return exit_code(done)
