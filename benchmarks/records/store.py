"""Files of results: whole or not at all, of a known schema, in a known folder."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec

from benchmarks.environment import CHECKOUT


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
    """`results/` of the folder we stand in, else of the checkout that this module lies in."""
    here = Path.cwd() / "results"
    checkout = CHECKOUT / "results"
    return checkout if checkout.is_dir() and not here.is_dir() else here


def published_directory() -> Path:
    """What is committed, wherever we stand; without a checkout, of the folder we stand in."""
    checkout = CHECKOUT / "results"
    return (checkout if checkout.is_dir() else Path.cwd() / "results") / "published"
