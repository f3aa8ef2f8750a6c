"""The points of an item of the paper, from its CSV: a table, and charts of its numbers.

A CSV with the columns of POINT is drawn by quantity, series and place. A long CSV without them is
drawn column by column.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from benchmarks.file_names import printable
from benchmarks.records.record import group_by
from benchmarks.site.charts import Value, curves, groups, lines
from benchmarks.site.page import Cell, Chart, Table, number_in

POINT = ("series", "place", "quantity", "unit", "value")

MOST_ROWS = 500
"""A longer CSV is a file to open, not a table."""

MOST_BARS = 8
"""Places of a chart of bars; more places are drawn as lines."""

MOST_CHARTS = 6

MOST_SOURCES = 3
"""Sources of a chart that are named."""

DIVIDING = ("label", "source", "settings")
"""Columns that tell rows of one series and place apart."""

Row = Mapping[str, str]

_DIGITS = re.compile(r"-?\d{1,9}\.\d{5,}")


def read(path: Path) -> Table:
    """A CSV with a header line as a table; short lines are filled. Raises ValueError or OSError."""
    with path.open(encoding="utf-8", errors="replace", newline="") as file:
        try:
            titles, *rows = list(csv.reader(file)) or [[]]
        except csv.Error as error:
            raise ValueError(f"{path}: no CSV ({error})") from None
    width = len(titles)
    filled = [(*row, *[""] * width)[:width] for row in rows if row]
    cells = (tuple(Cell(text=_short(text)) for text in line) for line in filled)
    return Table(titles=tuple(titles), rows=tuple(cells))


def _short(text: str) -> str:
    """A number of many digits with six of them. The copied file has all."""
    return f"{float(text):.6g}" if _DIGITS.fullmatch(text) else text


def charts(table: Table, name: str) -> tuple[Chart, ...]:
    """The charts of a CSV. name: of its file."""
    if set(POINT) <= set(table.titles):
        return tuple(_by_quantity(table, name))[:MOST_CHARTS]
    if len(table.rows) > MOST_ROWS:
        return (curves(table, title=f"{name}: every column", source=name),)
    return ()


def _by_quantity(table: Table, name: str) -> Iterator[Chart]:
    """A chart for each quantity and unit."""
    cells = [tuple(cell.text for cell in row) for row in table.rows]
    rows = [dict(zip(table.titles, row, strict=True)) for row in cells]
    quantities = group_by(rows, lambda row: (row["quantity"], row["unit"]))
    for (quantity, unit), group in quantities.items():
        names = _series_names(group)
        values = [_value(row, series) for row, series in zip(group, names, strict=True)]
        if all(value.value is None for value in values):
            continue
        origins = _listed(group, "source")
        draw = groups if _places(group) <= MOST_BARS else lines
        yield draw(
            values,
            title=printable(quantity),
            place="",
            axis=printable(unit),
            source=" · ".join(part for part in (_listed(group, "label"), origins, name) if part),
        )


def _places(rows: Sequence[Row]) -> int:
    return len({row["place"] for row in rows})


def _listed(rows: Sequence[Row], column: str) -> str:
    """The values of a column, each once; their number where there are many."""
    values = [value for value in dict.fromkeys(row.get(column, "") for row in rows) if value]
    return "; ".join(values) if len(values) <= MOST_SOURCES else f"{len(values)} {column}s"


def _series_names(rows: Sequence[Row]) -> list[str]:
    """The name of each row's series, with what divides a series of two rows at one place."""
    series = group_by(rows, lambda row: row["series"])
    columns = {name: _dividing(group) for name, group in series.items()}
    return [_series_name(row, columns[row["series"]]) for row in rows]


def _dividing(rows: Sequence[Row]) -> Sequence[str]:
    """The first column that tells all rows of a series at one place apart; else all columns.

    None where each place has one row.
    """
    places = group_by(rows, lambda row: row["place"]).values()
    if all(len(each) == 1 for each in places):
        return ()
    for column in DIVIDING:
        if all(len({row.get(column, "") for row in each}) == len(each) for each in places):
            return (column,)
    return DIVIDING


def _series_name(row: Row, columns: Sequence[str]) -> str:
    parts = [row[column] for column in columns if row.get(column)]
    return f"{row['series']} ({', '.join(parts)})" if parts else row["series"]


def _value(row: Row, series: str) -> Value:
    number = number_in(row["value"])
    shown = row.get("outcome", "") if number is None else f"{number:.4g}"
    return Value(place=row["place"], system=series, value=number, words=shown or "-")
