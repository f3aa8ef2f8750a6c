"""The folder of a node that follows: locked while in use, and rid of what killed commands left."""

from __future__ import annotations

import fcntl
import os
import re
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from benchmarks.launch import resuming
from benchmarks.launch.run import new_directory

HOST = "host.txt"
"""In the folder, while it is in use: the name of the host."""

_OF_A_NODE = re.compile(r"\d{8}-\d{6}-node-\d+(-\d+)?", re.ASCII)


@contextmanager
def own_folder(parent: Path, rank: int) -> Iterator[Path]:
    """A new folder of this node. Its inputs are removed at the end, and the folder if empty.

    Inputs that a killed command has left on this host are removed before. Raises OSError, or
    ValueError for a place whose name no record can hold.
    """
    for directory in sorted(parent.glob("*-node-*")):
        if _OF_A_NODE.fullmatch(directory.name):
            with suppress(OSError, ValueError):
                _remove_left(directory)
    directory = new_directory(parent, f"node-{rank}")
    with ExitStack() as undo:
        undo.callback(resuming.remove_files, directory)
        undo.callback((directory / HOST).unlink, missing_ok=True)
        undo.enter_context(resuming.locked(directory))
        (directory / HOST).write_text(socket.gethostname())
        yield directory


def _remove_left(directory: Path) -> None:
    """Remove the inputs of a folder of this host that no command uses. Logs of launches stay.

    Raises OSError where a command uses the folder, or where its file system knows no locks.
    """
    if (directory / HOST).read_text() != socket.gethostname():
        return  # locks of other hosts may be unknown here
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        (directory / HOST).unlink()
        resuming.remove_files(directory)
    finally:
        os.close(descriptor)
