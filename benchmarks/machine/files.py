"""Short files of the kernel and of container runtimes. What cannot be read is None."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from benchmarks.file_names import printable

MOST_BYTES = 64 * 1024
"""No file that is read here is longer; a stranger's may be."""


def raw_text(path: Path) -> str | None:
    """The text of a file as it is; None where it cannot be read. The kernel refuses some files."""
    try:
        with path.open("rb") as stream:
            return stream.read(MOST_BYTES).decode("utf-8", "replace")
    except (OSError, ValueError):
        return None


def line_of(path: Path) -> str | None:
    """The text of a file in one printable line; None where there is none."""
    text = raw_text(path)
    return printable(text.strip()) or None if text is not None else None


def number_of(path: Path) -> int | None:
    """The whole number in a file, from 0; None for all else. The kernel's -1 is unknown."""
    text = raw_text(path)
    try:
        number = int(text) if text is not None else -1
    except ValueError:
        return None
    return number if number >= 0 else None


def children(folder: Path, pattern: str = "*") -> list[Path]:
    """The entries of a folder, by name; none where it cannot be read."""
    with suppress(OSError):
        return sorted(folder.glob(pattern))
    return []


def linked_name(path: Path) -> str | None:
    """The last name of a link's target, such as that of a device's driver."""
    with suppress(OSError, ValueError):
        return printable(os.path.basename(os.readlink(path))) or None
    return None
