"""Processes that load the machine during a proof, and end with it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager


@contextmanager
def neighbours(program: str, arguments: Sequence[object]) -> Iterator[None]:
    """One process of the Python program for each argument, killed afterwards."""
    running = [
        subprocess.Popen([sys.executable, "-c", program, str(argument)]) for argument in arguments
    ]
    try:
        yield
    finally:
        for process in running:
            process.kill()
            process.wait()
