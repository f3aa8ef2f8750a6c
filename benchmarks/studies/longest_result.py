"""What a search for the longest sequence found: rows and trials, as table and as file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from benchmarks.job import Status
from benchmarks.records import store
from benchmarks.reporting.tables import NO_NUMBER
from benchmarks.rows.row import slug_of
from sppo.config.sizes import format_bytes, limit_label

SCHEMA = "sppo-longest/1"

LABEL = "measured"


class Trial(msgspec.Struct, frozen=True, kw_only=True):
    """One length under one setting; not launched where planner, library or a known peak said no."""

    row: str
    settings_text: str
    tokens: int
    status: Status
    reason: str = ""
    peak_device_bytes: int | None = None
    launched: bool = True


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """The result of a row. `longest_tokens` 0: not even one step of lengths fits.

    peak_device_bytes: tracked, largest rank, at the longest that fits. fails_with: status and
    reason of the first longer one, "" where the longest that is ever asked fits. points: settings
    that were looked at; launches: of all of them.
    """

    system: str
    row: str
    settings: dict[str, Any]
    settings_text: str
    longest_tokens: int
    peak_device_bytes: int | None
    fails_with: str
    points: int
    launches: int


class Longest(msgspec.Struct, frozen=True, kw_only=True):
    """All rows of a workload under one limit, committed."""

    schema: str = SCHEMA
    workload: str
    device_memory_bytes: int
    step_tokens: int
    machine: str
    versions: dict[str, str]
    commit: str
    dirty: bool
    date: str
    rows: list[Found]
    trials: list[Trial]


def path_of(workload: str, device_memory_bytes: int) -> Path:
    name = f"{workload}-{limit_label(device_memory_bytes)}.json"
    return store.published_directory() / "longest" / name


def save(longest: Longest, path: Path) -> Path:
    """Write the file, making its folder; the path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    store.write_bytes(path, store.to_json(longest))
    return path


def lost_rows(longest: Longest, path: Path) -> list[str]:
    """Rows of the file that is there which the new result does not have; [] of no such file."""
    try:
        before = msgspec.json.decode(path.read_bytes(), type=Longest)
    except (OSError, msgspec.DecodeError):
        return []
    new = {slug_of(row.row) for row in longest.rows}
    return [row.row for row in before.rows if slug_of(row.row) not in new]


def table(rows: Sequence[Found]) -> str:
    """Markdown: the longest of every row, and how SPPO's compares with it."""
    from tabulate import tabulate

    sppo = next((row.longest_tokens for row in rows if row.system == "sppo"), 0)
    lines = [
        (
            row.row,
            row.settings_text or NO_NUMBER,
            f"{row.longest_tokens:,}" if row.longest_tokens else "none",
            f"{sppo / row.longest_tokens:.2f}x" if sppo and row.longest_tokens else NO_NUMBER,
            NO_NUMBER if row.peak_device_bytes is None else format_bytes(row.peak_device_bytes),
            row.fails_with or "nothing longer was asked",
            f"{row.launches} of {row.points} setting{'s' if row.points > 1 else ''}",
        )
        for row in rows
    ]
    headers = (
        "row",
        "settings",
        f"longest, tokens ({LABEL})",
        "SPPO's is longer by",
        "peak device",
        "one step longer",
        "launches",
    )
    return str(
        tabulate(
            lines,
            headers=headers,
            tablefmt="github",
            disable_numparse=True,
            colalign=("left", "left", *("right",) * 3, "left", "left"),
        )
    )


def text(longest: Longest) -> str:
    """Heading, table and what the numbers mean."""
    head = (
        f"{longest.workload}: the longest sequence with "
        f"{format_bytes(longest.device_memory_bytes)} of device memory a rank, enforced"
    )
    changed = " with changes" if longest.dirty else ""
    where = f"{longest.machine}, commit {longest.commit[:9]}{changed}, {longest.date}"
    note = (
        f"one launch a length, up to its accounted step; lengths are multiples of "
        f"{longest.step_tokens}; a tuned row is the best of all points of its grid"
    )
    return "\n".join([head, f"{LABEL} on {where}", "", table(longest.rows), "", note])
