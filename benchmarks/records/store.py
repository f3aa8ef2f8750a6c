"""Files of results: written whole or not at all, with a schema, in a known folder."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from benchmarks.environment import CHECKOUT
from benchmarks.file_names import printable
from sppo.config.folders import in_checkout, user_folder

PACKAGED = CHECKOUT / "benchmarks" / "results"
"""The part of `results/` that an installed package contains (setup.py). A checkout has none."""

_T = TypeVar("_T")


class RecordError(ValueError):
    """A record cannot be read. The message is one line with the file and the cure."""


def is_text(name: str | Path) -> bool:
    """Whether a name is Unicode. A file name of other bytes has surrogates, and no JSON."""
    try:
        str(name).encode()
    except UnicodeEncodeError:
        return False
    return True


def finite(value: float) -> float | None:
    """The value, or None for NaN and the infinities, which JSON does not have."""
    return value if abs(value) < float("inf") else None


def write_bytes(path: Path, *parts: bytes | memoryview) -> None:
    """Write a whole file or nothing: a temporary file beside it, flushed, then renamed.

    The folder is flushed too, so that the new name outlives a power cut.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("wb") as stream:
            for part in parts:
                stream.write(part)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)
    except OSError as error:
        error.filename = error.filename or str(path)  # a failed write has none
        raise
    finally:
        temporary.unlink(missing_ok=True)
    descriptor = os.open(path.parent, os.O_RDONLY)
    try:
        with suppress(OSError):  # some file systems cannot flush a folder
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def to_json(value: object) -> bytes:
    """Indented JSON with a final newline. Text that is no Unicode is escaped, as by `printable`."""
    try:
        encoded = msgspec.json.encode(value)
    except UnicodeEncodeError:
        encoded = msgspec.json.encode(_printable_values(msgspec.to_builtins(value)))
    return msgspec.json.format(encoded, indent=2) + b"\n"


def _printable_values(value: Any) -> Any:
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, dict):
        return {_printable_values(key): _printable_values(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_printable_values(item) for item in value]
    return value


def save(path: Path, value: object) -> Path:
    """Write the value as JSON, making its folder; the path. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(path, to_json(value))
    return path


class _Header(msgspec.Struct):
    schema: str


def check_schema(path: Path, data: bytes, expected: str) -> None:
    """Raise RecordError unless the JSON object names the expected schema."""
    try:
        schema = msgspec.json.decode(data, type=_Header).schema
    except msgspec.DecodeError as error:
        raise RecordError(f"{path}: not a {expected} file ({error}); delete it") from None
    if schema == expected:
        return
    family, _, version = schema.partition("/")
    own_family, _, own_version = expected.partition("/")
    if family != own_family or not version.isdecimal():
        raise RecordError(f"{path}: schema {schema!r}, expected {expected!r}; name another file")
    newer = int(version) > int(own_version)
    age, cure = ("newer", "update this program") if newer else ("older", "run the workload again")
    raise RecordError(f"{path}: schema {schema!r} is {age} than {expected!r}; {cure}")


def read_json(path: Path, kind: type[_T], schema: str, cure: str) -> _T:
    """The value in a JSON file. Raises OSError; RecordError with the cure on a damaged file."""
    data = path.read_bytes()
    check_schema(path, data, schema)
    try:
        return msgspec.json.decode(data, type=kind)
    except msgspec.ValidationError as error:
        raise RecordError(f"{path}: {error}; {cure}") from None


def results_directory() -> Path:
    """`results/` of the current folder, else of the checkout, else of the user's data."""
    here = Path.cwd() / "results"
    return here if here.is_dir() else _own_results()


def published_directory() -> Path:
    """The committed results; with an installed package, the results that its user published."""
    return _own_results() / "published"


def _own_results() -> Path:
    return (CHECKOUT if in_checkout() else user_folder()) / "results"


def readable(path: Path) -> Path:
    """The file to read for a path below `results/`: the user's own, else the packaged one."""
    own = published_directory().parent
    if in_checkout() or path.exists() or not path.is_relative_to(own):
        return path
    packaged = PACKAGED / path.relative_to(own)
    return packaged if packaged.exists() else path


def readable_files(folder: Path, pattern: str) -> list[Path]:
    """The files to read in a folder below `results/`, by name; the user's own come first."""
    own = published_directory().parent
    paths = {path.name: path for path in folder.glob(pattern)}
    if not in_checkout() and folder.is_relative_to(own):
        for path in (PACKAGED / folder.relative_to(own)).glob(pattern):
            paths.setdefault(path.name, path)
    return [paths[name] for name in sorted(paths)]
