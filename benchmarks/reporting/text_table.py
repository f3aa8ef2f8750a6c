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
    from tabulate import tabulate

    table: str = tabulate(
        [[cell(item) for _, cell in columns] for item in items],
        headers=[title for title, _ in columns],
        tablefmt="github",
        disable_numparse=True,
        colalign=[ALIGNMENTS[letter] for letter in align] if align and items else None,
    )
    return table


def number(value: float | None, form: str) -> str:
    """The value in a `str.format` form such as "{:.2f}x"; NO_NUMBER for None."""
    return NO_NUMBER if value is None else form.format(value)
