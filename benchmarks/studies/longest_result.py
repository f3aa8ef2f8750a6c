"""The result of a search for the longest sequence: rows and trials, as table and as file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from baselines import registry
from benchmarks.job import Status
from benchmarks.records import store
from benchmarks.reporting.tables import size_words
from benchmarks.reporting.text_table import NO_NUMBER, Column, text_table
from benchmarks.rows.row import slug_of
from benchmarks.studies.publish import SavedStudy
from sppo.config.sizes import format_bytes, limit_label

SCHEMA = "sppo-longest/1"

LABEL = "measured"


class LongestTrial(msgspec.Struct, frozen=True, kw_only=True):
    """One length under one setting.

    launched: False where the planner, the library or a known peak ruled the length out.
    """

    row: str
    settings_text: str
    tokens: int
    status: Status
    reason: str = ""
    peak_device_bytes: int | None = None
    launched: bool = True


class LongestRow(msgspec.Struct, frozen=True, kw_only=True):
    """The result of a row. longest_tokens: 0 if not even one step of lengths fits.

    peak_device_bytes: tracked bytes of the fullest rank at the longest that fits. fails_with:
    status and reason of the first longer one. points: the row's settings. launches: of all of them.
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


class LongestSequences(SavedStudy, frozen=True, kw_only=True):
    """All rows of a workload under one device limit. Lengths are multiples of step_tokens."""

    schema: str = SCHEMA
    step_tokens: int
    rows: list[LongestRow]
    trials: list[LongestTrial]


def path_of(workload: str, device_memory_bytes: int) -> Path:
    """The published file of a workload under a limit."""
    name = f"{workload}-{limit_label(device_memory_bytes)}.json"
    return store.published_directory() / "longest" / name


def lost_rows(longest: LongestSequences, path: Path) -> list[str]:
    """Rows in the file that the new result does not have; none without a readable file."""
    try:
        saved = msgspec.json.decode(path.read_bytes(), type=LongestSequences)
    except (OSError, msgspec.DecodeError):
        return []
    new = {slug_of(row.row) for row in longest.rows}
    return [row.row for row in saved.rows if slug_of(row.row) not in new]


def table(rows: Sequence[LongestRow]) -> str:
    """Markdown: the longest of every row, and SPPO's length over it."""
    return text_table(columns(rows), rows, "llrrrll")


def columns(rows: Sequence[LongestRow]) -> tuple[Column[LongestRow], ...]:
    """The columns of the table."""
    sppo = next((row.longest_tokens for row in rows if row.system == "sppo"), 0)

    def sppo_over(row: LongestRow) -> str:
        tokens = row.longest_tokens
        return f"{sppo / tokens:.2f}x" if sppo and tokens else NO_NUMBER

    return (
        ("row", lambda row: row.row),
        ("settings", lambda row: row.settings_text or NO_NUMBER),
        (
            f"longest, tokens ({LABEL})",
            lambda row: f"{row.longest_tokens:,}" if row.longest_tokens else "none",
        ),
        ("SPPO's is longer by", sppo_over),
        ("peak device", lambda row: size_words(row.peak_device_bytes)),
        ("one step longer", lambda row: row.fails_with or "nothing longer was asked"),
        (
            "launches",
            lambda row: f"{row.launches} of {row.points} setting{'s' if row.points > 1 else ''}",
        ),
    )


def text(longest: LongestSequences) -> str:
    """Heading, table, the remarks of the rows' systems, and the meaning of the numbers."""
    remarks = ((row.row, registry.load(row.system).remark) for row in longest.rows)
    limit = format_bytes(longest.device_memory_bytes)
    changed = " with changes" if longest.dirty else ""
    return "\n".join(
        [
            f"{longest.workload}: the longest sequence with {limit} of device memory a rank, "
            "enforced",
            f"{LABEL} on {longest.machine}, commit {longest.commit[:9]}{changed}, {longest.date}",
            "",
            table(longest.rows),
            "",
            *(f"{row}: {remark}" for row, remark in remarks if remark),
            "one launch a length, up to its accounted step; lengths are multiples of "
            f"{longest.step_tokens}; a tuned row is the best of all points of its grid",
        ]
    )
