"""The expected values on disk: one JSON file a topic, in a form that a diff shows well."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping
from pathlib import Path

import msgspec

from benchmarks.environment import library_versions
from benchmarks.records.store import published_directory, readable, write_bytes
from benchmarks.regression.differences import CaseValues, Tree

SCHEMA = "sppo-expected/1"

COUNTED_WITH = ("torch", "megatron-core", "deepspeed")
"""Libraries whose version decides the counts of a step."""

IN_A_ROW = 8
"""Values of a list in a line: few, so that a diff shows few unchanged values."""


class Expected(
    msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="schema", tag=SCHEMA
):
    """A topic's file. versions: of the libraries that made counted values; else empty."""

    cases: CaseValues
    versions: Mapping[str, str] = {}


def default_directory() -> Path:
    """`results/expected` of the checkout, or the user's own beside an installed package."""
    return published_directory().parent / "expected"


def versions_here() -> dict[str, str]:
    """Installed versions of Python and of the libraries that counted values depend on."""
    installed = library_versions()
    versions = {name: installed[name] for name in COUNTED_WITH if name in installed}
    return {"python": ".".join(platform.python_version_tuple()[:2]), **versions}


def path_of(directory: Path, topic: str) -> Path:
    """The file of a topic."""
    return directory / f"{topic}.json"


def read(directory: Path, topic: str) -> Expected:
    """Raises ValueError, naming the cure, where there is no such file or the file is damaged."""
    path = readable(path_of(directory, topic))
    try:
        return msgspec.json.decode(path.read_bytes(), type=Expected)
    except (OSError, ValueError) as error:
        raise ValueError(f"{path}: {error}; make it with --update") from None


def write(directory: Path, topic: str, expected: Expected) -> Path:
    """Write the topic's file; returns its path. Raises OSError."""
    directory.mkdir(parents=True, exist_ok=True)
    path = path_of(directory, topic)
    write_bytes(path, (to_text(msgspec.to_builtins(expected)) + "\n").encode())
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
