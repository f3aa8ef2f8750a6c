"""`sppo-bench table`: the table of a run again, from its records."""

from __future__ import annotations

from benchmarks.commands.arguments import UsageError
from benchmarks.commands.output import show_records
from benchmarks.commands.reports.flags import Table
from benchmarks.records import record
from benchmarks.records.store import RecordError


def table(verb: Table) -> int:
    """The table of a run, from its records; the exit code is the run's."""
    from benchmarks.launch.run import exit_code

    try:
        done = record.read_all(verb.directory)
    except RecordError as error:
        raise UsageError(error) from None
    show_records(done, verb.directory, verb.json)
    return exit_code(done)
