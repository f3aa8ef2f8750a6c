"""The files of a launch that travel from a node to node 0. Names are checked on arrival."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from benchmarks.launch.ranks import ends as rank_ends
from benchmarks.nodes.messages import File
from benchmarks.records import store

LOG = "log.txt"
LONGEST_LOG = 4 * 2**20
"""Bytes of a node's log that travel: the last ones."""

LONGEST_FILE = 40 * 2**20
"""Bytes of another file; base64 in JSON makes it a third longer. A longer one stays behind."""

_OF_A_RANK = re.compile(r"(?:(?:rank|error|timeline)-(\d+)\.json|where-(\d+))", re.ASCII)


class WrongFile(ValueError):
    """A node sends a file that is none of its own."""


def note_files(directory: Path, number: int) -> Iterator[File]:
    """The last notes of the ranks here."""
    for path in sorted(directory.glob("where-*")):
        yield _file(path, number)


def result_files(directory: Path, number: int) -> Iterator[File]:
    """All files of the ranks here, their ends, and the log."""
    for path in sorted(directory.glob("*")):
        if _OF_A_RANK.fullmatch(path.name) or path.name == rank_ends.FILE_NAME:
            if path.stat().st_size <= LONGEST_FILE:
                yield _file(path, number)
        elif path.name == LOG:
            yield _log(path, number)


def _file(path: Path, number: int) -> File:
    return File(number=number, name=path.name, content=path.read_bytes())


def _log(path: Path, number: int) -> File:
    with path.open("rb") as stream:
        size = stream.seek(0, 2)
        stream.seek(max(0, size - LONGEST_LOG))
        return File(number=number, name=LOG, content=stream.read(), whole=size <= LONGEST_LOG)


def take(file: File, directory: Path, node_rank: int, ranks_per_node: int) -> bytes:
    """Write a node's file into the folder of the launch; of its ends only return the content.

    The log becomes log-node-1.txt. Raises WrongFile for a name that is not the node's, or OSError.
    """
    if file.name == rank_ends.FILE_NAME:
        return file.content
    if file.name == LOG:
        head = b"" if file.whole else b"... the beginning stayed on the node ...\n"
        store.write_bytes(directory / f"log-node-{node_rank}.txt", head, file.content)
        return b""
    match = _OF_A_RANK.fullmatch(file.name)
    if match is None or int(match[1] or match[2]) // ranks_per_node != node_rank:
        raise WrongFile(f"it sends a file named {file.name!r}, which is none of its own")
    store.write_bytes(directory / file.name, file.content)
    return b""
