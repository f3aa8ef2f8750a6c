"""The token of a run: a secret that every node shows to know, and nobody sends."""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.nodes.place import Place
from sppo.config.folders import user_folder

VARIABLE = "SPPO_BENCH_TOKEN"
LEAST_LENGTH = 16
PUBLIC = ("the-same-secret-on-both-nodes",)
"""Values of earlier pages, which everybody knows."""

CURE = f"export {VARIABLE}=$(openssl rand -hex 16) on node 0, and the same value on all nodes"


@contextmanager
def run_token(place: Place, wait_seconds: float) -> Iterator[str]:
    """The token of this run: from the variable; under SLURM else from a file of the user.

    Raises ValueError with the cure.
    """
    value = os.environ.pop(VARIABLE, "")  # no rank needs it
    if value:
        if len(value) < LEAST_LENGTH:
            raise ValueError(f"{VARIABLE} is shorter than {LEAST_LENGTH} characters: {CURE}")
        if value in PUBLIC:
            raise ValueError(f"{VARIABLE} has a value that everybody knows: {CURE}")
        yield value
    elif not place.job:
        raise ValueError(f"{VARIABLE} is not set: {CURE}")
    elif place.rank:
        yield _wait_for(_path(place), wait_seconds)
    else:
        path = _path(place)
        try:
            yield _write(path)
        finally:
            path.unlink(missing_ok=True)


def _path(place: Place) -> Path:
    return user_folder() / "tokens" / f"slurm-{place.job}"


def _write(path: Path) -> str:
    """A new token in a file that only the user may read. Raises ValueError."""
    token = secrets.token_hex(16)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.unlink(missing_ok=True)
        with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as stream:
            stream.write(token)
        temporary.replace(path)
    except OSError as error:
        raise ValueError(f"{path}: no token written ({error.strerror}): {CURE}") from None
    return token


def _wait_for(path: Path, wait_seconds: float) -> str:
    """The token that node 0 writes. Raises ValueError where none comes."""
    deadline = time.monotonic() + wait_seconds
    while time.monotonic() < deadline:
        try:
            return path.read_text()
        except OSError:
            time.sleep(0.2)
    raise ValueError(f"{path}: no token of node 0 after {wait_seconds:.0f} s: {CURE}")
