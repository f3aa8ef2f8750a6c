"""A comparison as a table for people, as Markdown and as JSON, and its exit code."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from benchmarks.regression.compare.recorded import SCHEMA, Header
from benchmarks.regression.compare.run_folders import Joined, RowComparison
from benchmarks.regression.compare.verdict import Outcome, Verdict
from benchmarks.regression.exit_codes import NOT_WORSE, UNDECIDED, WORSE
from benchmarks.reporting.text_table import NO_NUMBER, Column, bullet, number, percent, text_table

EXPLANATION = (
    "ratio: the least time of HEAD over that of BASE; below 1 HEAD is faster",
    "interval: the lower ends of all targets together are 99.5 % sure, an upper end 88 %",
    "typical: the ratio within a pair, over all pairs",
    "A/A spread: how far the two fastest of the first runs of BASE differ",
)

Item = tuple[str, Verdict]


def exit_code(outcomes: Iterable[Outcome]) -> int:
    """The worst outcome counts: worse, then undecided."""
    given = set(outcomes)
    if "worse" in given:
        return WORSE
    return UNDECIDED if "undecided" in given else NOT_WORSE


def _interval(low: float | None, high: float | None) -> str:
    return NO_NUMBER if low is None or high is None else f"{low:.3f} to {high:.3f}"


_COLUMNS: tuple[Column[Item], ...] = (
    ("target", lambda item: item[0]),
    ("A/A spread", lambda item: percent(item[1].spread)),
    ("margin", lambda item: percent(item[1].margin)),
    ("ratio", lambda item: number(item[1].ratio, "{:.3f}")),
    ("interval", lambda item: _interval(item[1].low, item[1].high)),
    ("typical", lambda item: number(item[1].typical_ratio, "{:.3f}")),
    ("pairs", lambda item: str(item[1].pairs)),
    ("verdict", lambda item: item[1].outcome),
)

_ROW_COLUMNS: tuple[Column[RowComparison], ...] = (
    ("row", lambda row: row.row),
    ("step time ratio", lambda row: number(row.ratio, "{:.3f}")),
    ("interval", lambda row: _interval(row.low, row.high)),
    ("memory ratio", lambda row: number(row.memory_ratio, "{:.3f}")),
    ("losses", lambda row: row.losses),
    ("verdict", lambda row: row.outcome),
)


def of_commits(header: Header, verdicts: Mapping[str, Verdict]) -> str:
    """Title, table, reasons and legend, in Markdown that is also readable in a terminal."""
    items: Sequence[Item] = list(verdicts.items())
    notes = [f"{name}: {each.reason}" for name, each in items if each.reason]
    notes += [
        f"{name}: the margin is {percent(each.margin)}, three times the A/A spread"
        for name, each in items
        if each.outcome != "undecided" and each.margin > header.margin
    ]
    notes += [f"{name} is left out: {reason}" for name, reason in header.left_out.items()]
    table = text_table(_COLUMNS, items, "lrrrrrrl")
    return _page(f"{header.head} against {header.base}", table, (*notes, *EXPLANATION))


def of_folders(joined: Joined) -> str:
    """The same for two run folders."""
    notes = [f"{row.row}: {row.reason}" for row in joined.rows if row.reason]
    table = text_table(_ROW_COLUMNS, joined.rows, "lrrrll")
    return _page(f"{joined.workload}: second folder against first", table, notes + joined.notes)


def _page(title: str, table: str, notes: Sequence[str]) -> str:
    return "\n".join([title, "", table, "", *map(bullet, notes)])


def commits_data(directory: str, header: Header, verdicts: Mapping[str, Verdict]) -> dict[str, Any]:
    """The verdicts for programs."""
    return {
        "schema": SCHEMA,
        "directory": directory,
        "base": header.base,
        "head": header.head,
        "asked_margin": header.margin,
        "false_calls": header.false_calls,
        "left_out": header.left_out,
        "exit_code": exit_code(each.outcome for each in verdicts.values()),
        "targets": [{"target": name, **asdict(each)} for name, each in verdicts.items()],
    }


def folders_data(joined: Joined) -> dict[str, Any]:
    """The rows of two run folders for programs."""
    return {
        "schema": SCHEMA,
        **asdict(joined),
        "exit_code": exit_code(row.outcome for row in joined.rows),
    }
