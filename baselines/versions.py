"""Versions of installed packages, read once a process."""

from __future__ import annotations

from functools import cache
from importlib import metadata


@cache
def version(package: str) -> str:
    """The installed version. Raises importlib.metadata.PackageNotFoundError.

    A search asks for the versions of each of a thousand ranks, and a package's file takes
    milliseconds to read.
    """
    return metadata.version(package)
