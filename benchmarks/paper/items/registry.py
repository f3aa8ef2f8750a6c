"""The items by key, and their makers. A maker's module is imported when the item is made."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pkgutil import resolve_name

from benchmarks.paper.items.item import Item

FIGURES = ("1", "2", "4", "5", "6", "7", "8", "9", "10", "11", "12")

TABLES = ("2", "3", "4", "beyond", "map")
"""`beyond` and `map` are no tables of the paper: further hardware, and who wins where."""

Maker = Callable[[], Item]


def figure_key(number: str) -> str:
    """ "fig1"."""
    return f"fig{number}"


def table_key(number: str) -> str:
    """ "table3", "beyond"."""
    return f"table{number}" if number.isdecimal() else number


ITEMS = {
    **{figure_key(number): f"figures.{figure_key(number)}:make" for number in FIGURES},
    **{table_key(number): f"tables.{table_key(number)}:make" for number in TABLES},
}
"""Key -> "module:function" in this package."""


def maker(key: str, pipeline: tuple[int, int] | None = None) -> Maker:
    """The maker of an item. pipeline: PP and N of a further table 3."""
    make: Callable[..., Item] = resolve_name(f"{__package__}.{ITEMS[key]}")
    return partial(make, pipeline) if key == "table3" else make
