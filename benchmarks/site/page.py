"""A page of the site as data, without HTML. Paths and links are relative to the site's root."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

from markupsafe import Markup

from benchmarks.reporting.text_table import NO_NUMBER, Column

Item = TypeVar("Item")

NOTHING = ("", NO_NUMBER)
"""Cells without content."""

LONG_CELL = 20
"""Letters of a cell that is not long."""

_NUMBER = re.compile(
    r"(?P<number>[-+]?\d[\d,]*(?:\.\d+)?(?:e[-+]?\d+)?) ?"
    r"(?P<unit>[KMG]|[KMGT]iB|x|%|s|ms|us|ns)?(?: .*)?",
    re.DOTALL,
)
_UNITS = {
    "K": 1024,
    "M": 1024**2,
    "G": 1024**3,
    "KiB": 1024,
    "MiB": 1024**2,
    "GiB": 1024**3,
    "TiB": 1024**4,
    "ms": 1e-3,
    "us": 1e-6,
    "ns": 1e-9,
}


def number_in(words: str) -> float | None:
    """The number that words begin with, in its base unit: "1.84 [1.7, 1.9]", "122.1 MiB", "4M".

    None for words without a finite number, such as a commit or a date.
    """
    match = _NUMBER.fullmatch(words.strip())
    if match is None:
        return None
    number = float(match["number"].replace(",", "")) * _UNITS.get(match["unit"] or "", 1)
    return number if math.isfinite(number) else None


@dataclass(frozen=True, kw_only=True)
class Cell:
    """Words of a table's cell, and the place that they link to."""

    text: str
    href: str = ""


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table that sorts and filters."""

    kind: ClassVar[str] = "table"

    titles: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]

    @property
    def numeric(self) -> list[bool]:
        """For each column, whether at least half of its cells with content begin with a number."""
        return [_is_numeric([row[place].text for row in self.rows]) for place in self._places]

    @property
    def long(self) -> list[bool]:
        """For each column, whether a cell of words is long, so that the column needs room."""
        numeric = self.numeric
        return [
            not numeric[place] and any(len(row[place].text) > LONG_CELL for row in self.rows)
            for place in self._places
        ]

    @property
    def orders(self) -> list[list[str | None]]:
        """For each row and column the value to sort by: a number, "" for none, None for words."""
        numeric = self.numeric
        return [
            [_order(row[place].text) if numeric[place] else None for place in self._places]
            for row in self.rows
        ]

    @property
    def _places(self) -> range:
        return range(len(self.titles))


def _is_numeric(cells: Sequence[str]) -> bool:
    present = [cell for cell in cells if cell not in NOTHING]
    numbers = [cell for cell in present if number_in(cell) is not None]
    return bool(numbers) and 2 * len(numbers) >= len(present)


def _order(cell: str) -> str:
    number = number_in(cell)
    return "" if number is None else repr(number)


def table(
    columns: Sequence[Column[Item]], items: Sequence[Item], hrefs: Sequence[str] = ()
) -> Table:
    """A table with one line per item. The first cell and every number link to the item's place.

    hrefs: a place for each item; no links if empty.
    """
    rows = [
        tuple(_cell(write(item), href, number) for number, (_, write) in enumerate(columns))
        for item, href in zip(items, hrefs or [""] * len(items), strict=True)
    ]
    return Table(titles=tuple(title for title, _ in columns), rows=tuple(rows))


def _cell(text: str, href: str, column: int) -> Cell:
    linked = column == 0 or number_in(text) is not None
    return Cell(text=text, href=href if linked else "")


@dataclass(frozen=True, kw_only=True)
class Facts:
    """Names with their values."""

    kind: ClassVar[str] = "facts"

    rows: tuple[tuple[str, Cell], ...]


@dataclass(frozen=True, kw_only=True)
class Chart:
    """A figure of Plotly. source: label, machine or profile, commit and date of its numbers."""

    kind: ClassVar[str] = "chart"

    title: str
    source: str
    figure: Mapping[str, Any]
    height: int


@dataclass(frozen=True, kw_only=True)
class Image:
    """A picture of the site; `path` is its file."""

    kind: ClassVar[str] = "image"

    path: str
    alt: str


@dataclass(frozen=True, kw_only=True)
class Lines:
    """Sentences, as a list of bullets."""

    kind: ClassVar[str] = "lines"

    lines: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Code:
    """Text as it stands in a file. folded: shown on a click."""

    kind: ClassVar[str] = "code"

    title: str
    text: str
    folded: bool = True


@dataclass(frozen=True, kw_only=True)
class Prose:
    """HTML from Markdown, already safe: `benchmarks.site.sources.markdown`."""

    kind: ClassVar[str] = "prose"

    html: Markup


@dataclass(frozen=True, kw_only=True)
class Links:
    """Links to pages or files of the site, or to another site."""

    kind: ClassVar[str] = "links"

    cells: tuple[Cell, ...]


@dataclass(frozen=True, kw_only=True)
class Trace:
    """A Chrome trace: a link to its file, and a button that hands it to Perfetto."""

    kind: ClassVar[str] = "trace"

    title: str
    path: str
    events: Mapping[str, Any]


Block = Table | Facts | Chart | Image | Lines | Code | Prose | Links | Trace


@dataclass(frozen=True, kw_only=True)
class Section:
    """A heading and what stands under it. level: of the heading, 2 or 3."""

    title: str
    anchor: str = ""
    level: int = 2
    blocks: tuple[Block, ...]


@dataclass(frozen=True, kw_only=True)
class Page:
    """A page of the site. group: the entry of the navigation that the page belongs to."""

    path: str
    group: str
    title: str
    lead: str = ""
    sections: tuple[Section, ...]

    @property
    def blocks(self) -> list[Block]:
        """Those of all sections."""
        return [block for section in self.sections for block in section.blocks]

    @property
    def root(self) -> str:
        """The way from the page's folder to the site's root."""
        return "../" * self.path.count("/")
