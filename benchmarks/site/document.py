"""What one published file or folder adds to the site, and how foreign names and values are read."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from benchmarks.file_names import printable
from benchmarks.reporting.text_table import NO_NUMBER
from benchmarks.site.page import Cell, Chart, Code, Facts, Page

T = TypeVar("T")

LONGEST = 80
"""Letters of a file's name."""

_UNSAFE = re.compile(r"[^A-Za-z0-9._-]+")

MOST_BYTES = 2 * 1024**2
"""A larger file is not copied into the site."""

UNREADABLE = (
    OSError,
    ValueError,
    ArithmeticError,
    LookupError,
    TypeError,
    AttributeError,
    AssertionError,
    RecursionError,
)
"""What foreign content can raise: `environment`, `settings` and `plan` hold values of any shape."""


@dataclass(frozen=True, kw_only=True)
class Document:
    """Pages and files of one published file or folder. href: its main page.

    charts: for the first page. summary: its result in a sentence.
    """

    title: str
    href: str
    summary: str
    pages: tuple[Page, ...]
    charts: tuple[Chart, ...] = ()
    files: Mapping[str, bytes] = field(default_factory=dict)

    @property
    def paths(self) -> list[str]:
        """Those of its pages and files."""
        return [*(page.path for page in self.pages), *self.files]


@dataclass(frozen=True, kw_only=True)
class Reader:
    """Reads foreign files one by one. A file that cannot be shown is named in `skipped`."""

    skipped: list[str] = field(default_factory=list)

    def read(self, paths: Iterable[Path], show: Callable[[Path], T]) -> list[T]:
        """What `show` makes of each path that it can show."""
        shown = []
        for path in paths:
            try:
                shown.append(show(path))
            except UNREADABLE as error:
                says_reason = isinstance(error, (ValueError, OSError))
                reason = printable(
                    str(error) if says_reason else f"{type(error).__name__}: {error}"
                )
                name = printable(str(path))
                self.skipped.append(reason if name in reason else f"{name}: {reason}")
        return shown


def files_in(folder: Path, pattern: str, *, root: Path) -> list[Path]:
    """The files of a folder, by name. A file that lies outside `root` by a link is left out.

    root: the source's folder in the resolved results, such as `published`. It is no link itself.
    """
    paths = sorted(path for path in folder.glob(pattern) if path.is_file())
    return [path for path in paths if path.resolve().is_relative_to(root)]


def safe_name(name: str) -> str:
    """A name for one file or folder: ASCII letters, digits, ".", "_" and "-", no "." at an end.

    Never "index.html" in any case: a folder of this name would stand at the place of a page.
    """
    safe = _UNSAFE.sub("-", name).strip(".-")[:LONGEST].strip(".-") or "unnamed"
    return safe.replace(".", "-") if safe.lower() == "index.html" else safe


def unique_names(names: Iterable[str], *, reserved: Iterable[str] = ()) -> dict[str, str]:
    """Each name with a safe name of its own, also where a file system ignores case.

    reserved: names in small letters that no name gets.
    """
    chosen: dict[str, str] = {}
    taken = set(reserved)
    for name in dict.fromkeys(names):
        base = safe_name(name)
        number, unique = 1, base
        while unique.lower() in taken:
            number += 1
            unique = f"{base}-{number}"
        taken.add(unique.lower())
        chosen[name] = unique
    return chosen


def words(value: Any) -> str:
    """A plain value for people: whole numbers with commas, yes and no, a dash for None."""
    if value is None or value == "":
        return NO_NUMBER
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:.6g}"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def facts(values: Mapping[str, Any], *, prefix: str = "") -> Facts:
    """Names and values; a mapping inside has its name before theirs: "versions.torch"."""
    return Facts(rows=tuple(_flat(values, prefix)))


def _flat(values: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Cell]]:
    for name, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", Cell(text=words(value))


def code(title: str, value: Any) -> Code:
    """A value as indented JSON."""
    return Code(title=title, text=json.dumps(finite(value), indent=2, ensure_ascii=False))


def finite(value: Any) -> Any:
    """A plain value without NaN and infinities, which JSON does not have; None in their place."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(name): finite(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(item) for item in value]
    return value


def file_bytes(path: Path) -> bytes:
    """The content of a file to copy. Raises ValueError for a file above MOST_BYTES; OSError."""
    with path.open("rb") as stream:
        data = stream.read(MOST_BYTES + 1)
    if len(data) > MOST_BYTES:
        raise ValueError(f"{path}: more than {MOST_BYTES:,} bytes; not copied")
    return data
