"""Files of results: whole or not at all, of a known schema, in a known folder."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec

from benchmarks.environment import CHECKOUT
from sppo.config.folders import in_checkout, user_folder

BROUGHT = CHECKOUT / "benchmarks" / "results"
"""What an installed package brings of `results/`: see setup.py. In a checkout there is none."""


class RecordError(ValueError):
    """A record that cannot be read; the message is one line naming the file and the cure."""


def finite(value: float) -> float | None:
    """The value, or None for NaN and the infinities, which JSON cannot say."""
    return value if abs(value) < float("inf") else None


def write_bytes(path: Path, data: bytes) -> None:
    """Write a whole file or nothing: a temporary file beside it, flushed, then renamed."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def to_json(value: object) -> bytes:
    """Indented JSON with a final newline."""
    return msgspec.json.format(msgspec.json.encode(value), indent=2) + b"\n"


def save(path: Path, value: object) -> Path:
    """Write the value as JSON, making its folder; the path. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(path, to_json(value))
    return path


class _Header(msgspec.Struct):
    schema: str


def check_schema(path: Path, data: bytes, expected: str) -> None:
    """Raise RecordError unless the JSON object says that it is of the expected schema."""
    try:
        schema = msgspec.json.decode(data, type=_Header).schema
    except msgspec.DecodeError as error:
        raise RecordError(f"{path}: not a {expected} file ({error}); delete it") from None
    if schema == expected:
        return
    name, _, number = schema.partition("/")
    ours = expected.partition("/")
    if name != ours[0] or not number.isdecimal():
        raise RecordError(f"{path}: schema {schema!r}, expected {expected!r}; not a file of this")
    age, cure = (
        ("newer", "update this program")
        if int(number) > int(ours[2])
        else (
            "older",
            "run the workload again",
        )
    )
    raise RecordError(f"{path}: schema {schema!r} is {age} than {expected!r}; {cure}")


def results_directory() -> Path:
    """`results/` of the folder we stand in, else of the checkout, else of the user's data."""
    here = Path.cwd() / "results"
    return here if here.is_dir() else _own_results()


def published_directory() -> Path:
    """What is committed, wherever we stand; of an installed package, what its user published."""
    return _own_results() / "published"


def _own_results() -> Path:
    return (CHECKOUT if in_checkout() else user_folder()) / "results"


def readable(path: Path) -> Path:
    """The file to read for a path below `results/`: where the user has none, what we bring."""
    own = published_directory().parent
    if in_checkout() or path.exists() or not path.is_relative_to(own):
        return path
    brought = BROUGHT / path.relative_to(own)
    return brought if brought.exists() else path


def readable_files(folder: Path, pattern: str) -> list[Path]:
    """The files to read of a folder below `results/`, by name; the user's before what we bring."""
    own = published_directory().parent
    paths = {path.name: path for path in folder.glob(pattern)}
    if not in_checkout() and folder.is_relative_to(own):
        for path in (BROUGHT / folder.relative_to(own)).glob(pattern):
            paths.setdefault(path.name, path)
    return [paths[name] for name in sorted(paths)]
