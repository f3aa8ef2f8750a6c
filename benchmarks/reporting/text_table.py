"""Tables in GitHub's Markdown, from columns as data."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

NO_NUMBER = "-"
"""Stands for an unknown number."""

Item = TypeVar("Item")

Column = tuple[str, Callable[[Item], str]]
"""A title, and the function that writes the cell of an item."""

ALIGNMENTS = {"l": "left", "r": "right"}


def text_table(columns: Sequence[Column[Item]], items: Sequence[Item], align: str = "") -> str:
    """A table with one line per item.

    align: "l" (left) or "r" (right) per column, such as "llrr"; all left if empty.
    """
    rows = [[cell(item) for _, cell in columns] for item in items]
    return rows_table([title for title, _ in columns], rows, align)


def rows_table(titles: Sequence[str], rows: Sequence[Sequence[str]], align: str = "") -> str:
    """A table from rows of finished cells, aligned as in `text_table`."""
    from tabulate import tabulate

    alignments = [ALIGNMENTS[letter] for letter in align] if align and rows else None
    return str(tabulate(rows, titles, "github", disable_numparse=True, colalign=alignments))


def percent(share: float | None) -> str:
    """ "50.7 %" for 0.507; NO_NUMBER for None."""
    return number(None if share is None else 100 * share, "{:.1f} %")


def number(value: float | None, form: str) -> str:
    """The value in a `str.format` form such as "{:.2f}x"; NO_NUMBER for None."""
    return NO_NUMBER if value is None else form.format(value)


def interval(
    ratio: float | None, low: float | None, high: float | None, *, form: str = "{:.2f}x"
) -> str:
    """A ratio with its interval, as "1.21x [1.15, 1.28]"; a dash where no ratio is claimed."""
    words = number(ratio, form)
    if ratio is None or low is None or high is None:
        return words
    return f"{words} [{low:.2f}, {high:.2f}]"


def bullet(line: str) -> str:
    """A line of a list, with a full stop."""
    return f"- {line}" if line.endswith((".", ":")) else f"- {line}."
