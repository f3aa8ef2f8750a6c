"""The expected values on disk: one JSON file a topic, in a form that a diff shows well.

A file has a digest of its content. So an edit by hand is noticed: values change by `--update` only.
"""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryFile

import msgspec

from benchmarks.environment import library_versions
from benchmarks.records.store import published_directory, readable, write_bytes
from benchmarks.regression.check.differences import CaseValues, Tree

SCHEMA = "sppo-expected/2"

IN_A_ROW = 8
"""Values of a list in a line: few, so that a diff shows few unchanged values."""

CURE = "restore the file from git, or make it anew with --update"


class Expected(
    msgspec.Struct,
    frozen=True,
    kw_only=True,
    forbid_unknown_fields=True,
    tag_field="schema",
    tag=SCHEMA,
):
    """A topic's file. versions: of Python and of the libraries that decide its values.

    digest: of the content that was written; "" before.
    """

    cases: CaseValues
    versions: Mapping[str, str]
    digest: str = ""


def default_directory() -> Path:
    """`results/expected` of the checkout, or the user's own beside an installed package."""
    return published_directory().parent / "expected"


def versions_here(libraries: Sequence[str]) -> dict[str, str]:
    """Installed versions of these libraries and of Python, without its patch release.

    Without local labels: "2.13.0+cpu" and "2.13.0" are builds of one version.
    """
    installed = library_versions()
    versions = {name: public(installed[name]) for name in libraries if name in installed}
    return {"python": ".".join(platform.python_version_tuple()[:2]), **versions}


def public(version: str) -> str:
    """The version without its local label: "2.13.0" of "2.13.0+cpu"."""
    return version.partition("+")[0]


def path_of(directory: Path, topic: str) -> Path:
    """The file of a topic."""
    return directory / f"{topic}.json"


def read(directory: Path, topic: str) -> Expected:
    """Raises ValueError, naming the cure, on a file that is absent, damaged, older or edited."""
    path = readable(path_of(directory, topic))
    try:
        file = msgspec.json.decode(path.read_bytes(), type=Expected)
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror}; make it with --update") from None
    except msgspec.ValidationError as error:
        raise ValueError(f"{path}: no file of {SCHEMA} ({error}); {CURE}") from None
    except ValueError as error:
        raise ValueError(f"{path}: no JSON ({error}); {CURE}") from None
    if file.digest != digest(file):
        raise ValueError(f"{path}: edited by hand (its digest is of another content); {CURE}")
    versions = {name: public(version) for name, version in file.versions.items()}
    return msgspec.structs.replace(file, versions=versions)


def write(directory: Path, topic: str, expected: Expected) -> Path:
    """Write the topic's file; returns its path. Raises OSError."""
    directory.mkdir(parents=True, exist_ok=True)
    path = path_of(directory, topic)
    file = msgspec.structs.replace(expected, digest=digest(expected))
    write_bytes(path, (to_text(msgspec.to_builtins(file)) + "\n").encode())
    return path


def digest(expected: Expected) -> str:
    """SHA-256 of the values and versions, whatever the layout of the file."""
    values = [msgspec.to_builtins(expected.cases), dict(expected.versions)]
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def require_writable(directory: Path) -> None:
    """Make the folder. Raises ValueError where it cannot be made or written."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=directory):
            pass
    except OSError as error:
        raise ValueError(
            f"{directory}: {error.strerror}; name a folder that can be written"
        ) from None


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
