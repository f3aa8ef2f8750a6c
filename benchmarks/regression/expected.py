"""The expected values on disk: one JSON file a topic, in a form that a diff shows well."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.environment import library_versions
from benchmarks.records.store import published_directory, readable, write_bytes
from benchmarks.regression.differences import Cases, Tree

SCHEMA = "sppo-expected/1"

COUNTED_WITH = ("torch", "megatron-core", "deepspeed")
"""Libraries whose version decides what a step counts."""

IN_A_ROW = 8
"""Values of a list in a line: where one changes, the diff shows few others."""


@dataclass(frozen=True, kw_only=True)
class Expected:
    """A topic's file. `versions`: what made it, where that matters."""

    cases: Cases
    versions: Mapping[str, str] = field(default_factory=dict)


def default_directory() -> Path:
    """`results/expected` of the checkout, or the user's own beside an installed package."""
    return published_directory().parent / "expected"


def versions_here() -> dict[str, str]:
    """Versions that counted values depend on, as they are installed."""
    installed = library_versions()
    versions = {name: installed[name] for name in COUNTED_WITH if name in installed}
    return {"python": ".".join(platform.python_version_tuple()[:2]), **versions}


def path_of(directory: Path, topic: str) -> Path:
    return directory / f"{topic}.json"


def read(directory: Path, topic: str) -> Expected:
    """Raises ValueError, naming the cure, where there is no such file or it is damaged."""
    path = readable(path_of(directory, topic))
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{path}: {error}; make it with --update") from None
    if not isinstance(data, dict) or data.get("schema") != SCHEMA or "cases" not in data:
        raise ValueError(f"{path}: not a {SCHEMA} file; make it again with --update")
    return Expected(cases=data["cases"], versions=data.get("versions", {}))


def write(directory: Path, topic: str, expected: Expected) -> Path:
    """The file, made anew."""
    document: dict[str, Tree] = {"cases": expected.cases, "schema": SCHEMA}
    if expected.versions:
        document["versions"] = expected.versions
    directory.mkdir(parents=True, exist_ok=True)
    path = path_of(directory, topic)
    write_bytes(path, (to_text(document) + "\n").encode())
    return path


def to_text(value: Tree, indent: str = "") -> str:
    """JSON with sorted keys, a key a line; lists of plain values in rows."""
    inside = indent + "  "
    if isinstance(value, Mapping):
        if not value:
            return "{}"
        items = [f"{inside}{json.dumps(k)}: {to_text(value[k], inside)}" for k in sorted(value)]
        return "{\n" + ",\n".join(items) + f"\n{indent}}}"
    if isinstance(value, list):
        items = [to_text(item, inside) for item in value]
        if len(items) <= IN_A_ROW:
            return f"[{', '.join(items)}]"
        rows = [", ".join(items[i : i + IN_A_ROW]) for i in range(0, len(items), IN_A_ROW)]
        return "[\n" + ",\n".join(inside + row for row in rows) + f"\n{indent}]"
    return json.dumps(value, allow_nan=False)
