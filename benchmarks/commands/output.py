"""The output of commands: JSON for programs, and the table of a run."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from benchmarks.records.record import Record
from benchmarks.reporting import tables


def show_json(value: object) -> None:
    """Indented JSON on standard output. Raises ValueError for NaN and infinities."""
    print(json.dumps(value, indent=2, allow_nan=False))


def show_records(done: Sequence[Record], directory: Path, as_json: bool) -> None:
    """Print the table of these records, or its content as JSON."""
    if not as_json:
        print(tables.text(done))
        return
    show_json(
        {
            "directory": str(directory),
            "header": tables.header(done),
            "rows": [tables.flat(summary) for summary in tables.summaries(done)],
            "notes": tables.notes(done),
        }
    )
