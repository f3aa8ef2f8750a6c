"""What a machine did to a command: the error in one line, and the folder of the records so far."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

RECORDS = ("record.json", "role-*.json")
"""Files of a launch, and of an emulated rank."""


def machine_words(error: OSError | MemoryError) -> str:
    """One line: "/results/x.json: No space left on device"."""
    if isinstance(error, MemoryError):
        return "out of memory"
    if error.strerror is None:
        return " ".join(str(error).split())
    place = "" if error.filename is None else f"{error.filename}: "
    return f"{place}{error.strerror}"


@contextmanager
def records_so_far(directory: Path) -> Iterator[None]:
    """Note the folder on an error of the machine, where it has records. The command line shows it.

    The outermost folder counts: a study's, not that of one of its runs.
    """
    try:
        yield
    except (OSError, MemoryError) as error:
        if any(path for pattern in RECORDS for path in directory.rglob(pattern)):
            error.__notes__ = [f"records so far: {directory}"]
        raise
