"""A Markdown table and the words in its cells."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from sppo.config.sizes import GIB, MIB

NOTHING = ""


Columns = Mapping[str, Callable[[Any], str]]
"""Titles, and the function that writes the cell of an item."""


def table(columns: Columns, items: Iterable[Any]) -> str:
    """A table with a line for each item."""
    return rows_table(list(columns), ([cell(item) for cell in columns.values()] for item in items))


def rows_table(headers: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Lines of a table. Cells are text and are not padded."""
    lines = [headers, ["---"] * len(headers), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def gib(size_bytes: int | None) -> str:
    """Bytes as "76.65 GiB"; nothing for zero and for no number."""
    return f"{size_bytes / GIB:,.2f} GiB" if size_bytes else NOTHING


def mib(size_bytes: int | None) -> str:
    """Bytes as "122.1 MiB"; nothing for zero and for no number."""
    return f"{size_bytes / MIB:,.1f} MiB" if size_bytes else NOTHING


def factor(number: float | None) -> str:
    """A ratio as "1.23x"; nothing for no number."""
    return NOTHING if number is None else f"{number:.2f}x"


def spread(numbers: Iterable[int]) -> str:
    """The smallest and the largest of some bytes: "76.06 to 76.65 GiB"; nothing of none."""
    sizes = list(numbers) or [0]
    low, high = gib(min(sizes)), gib(max(sizes))
    if low == high:
        return high
    return f"{low.removesuffix(' GiB')} to {high}" if low else high
