"""The end of a study: its result on standard output, and its files published."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from benchmarks.commands.flags import Measuring
from benchmarks.commands.output import show_json
from benchmarks.studies import publish


def show_study(
    command: Measuring,
    directory: Path,
    kind: str,
    name: str,
    data: dict[str, Any],
    document: str,
) -> None:
    """Print the JSON values or the document. With --publish copy the files.

    kind: name of the files in `directory`. name: of the published files, with their folder. Raises
    OSError.
    """
    if command.json:
        show_json({"directory": str(directory), **data})
    else:
        print(document)
    print(f"\nrecords, {kind}.md, .csv, .json, .png: {directory}", file=sys.stderr)
    if command.publish:
        publish.publish(directory, kind, name)
