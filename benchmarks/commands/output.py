"""The output of commands: JSON for programs, and the table of a run."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.commands.flags import Measuring
from benchmarks.records import store
from benchmarks.records.record import Record
from benchmarks.reporting import tables
from benchmarks.studies import publish


def show(as_json: bool, value: object, text: str) -> None:
    """Print the value as indented JSON, or the text for people."""
    print(store.to_json(value).decode().rstrip() if as_json else text)


def show_records(done: Sequence[Record], directory: Path, as_json: bool) -> None:
    """Print the table of these records, or its content as JSON."""
    values = {
        "directory": str(directory),
        "header": tables.header(done),
        "rows": [tables.flat(summary) for summary in tables.summaries(done)],
        "notes": tables.notes(done),
    }
    show(as_json, values, tables.text(done))


def show_study(
    command: Measuring, directory: Path, kind: str, name: str, data: dict[str, Any], document: str
) -> None:
    """Print the JSON values or the document of a study. With --publish copy the files.

    kind: name of the files in `directory`. name: of the published files, with their folder. Raises
    OSError.
    """
    show(command.json, {"directory": str(directory), **data}, document)
    print(f"\nrecords, {kind}.md, .csv, .json, .png: {directory}", file=sys.stderr)
    if command.publish:
        publish.publish(directory, kind, name)
