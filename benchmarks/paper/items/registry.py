"""The items by key, and their makers. A maker's module is imported when the item is made."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pkgutil import resolve_name

from benchmarks.paper.items.item import Item

FIGURES = ("1", "2", "4", "5", "6", "7", "8", "9", "10", "11", "12")
TABLES = ("2", "3", "4")

Maker = Callable[[], Item]


def _places() -> dict[str, str]:
    places = {f"fig{number}": f"figures.fig{number}:make" for number in FIGURES}
    return places | {f"table{number}": f"tables.table{number}:make" for number in TABLES}


ITEMS = _places()
"""Key -> "module:function" in this package."""


def maker(key: str, pipeline: tuple[int, int] | None = None) -> Maker:
    """The maker of an item. pipeline: PP and N of a further table 3."""
    make: Callable[..., Item] = resolve_name(f"{__package__}.{ITEMS[key]}")
    return partial(make, pipeline) if key == "table3" else make
