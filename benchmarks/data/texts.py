"""Text as pieces of bytes: the standard library, folders, files, and JSONL with a named field."""

from __future__ import annotations

import json
import os
import sysconfig
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from benchmarks.data.encoders import Encoder
from benchmarks.data.foreign import foreign_words
from benchmarks.data.source import Source, Unusable, starts_of
from benchmarks.file_names import printable

JSONL_ENDINGS = (".jsonl", ".ndjson", ".json")
LONE_JSONL_ENDING = ".json"
"""JSONL if the user names the file. In a folder of text it may be any JSON, and is text."""

DEFAULT_FIELD = "text"
TOKEN_ENDINGS = (".bin", ".idx", ".npy")
"""Files of ids that say their type, mostly. A folder is read as text."""

PIECE_BYTES = 2**20
LONGEST_RECORD_BYTES = 2**28
"""A line without an end would otherwise be read until memory is full."""

HEAD_BYTES = 4096

PACKAGES = ("site-packages", "dist-packages")
"""Folders of the standard library with packages that are installed there."""

_NO_OBJECT = "no JSON object; write one object a line, or name raw text .txt"
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


class Piece(NamedTuple):
    """Consecutive bytes of a document. A file or a JSONL record is a document."""

    content: bytes
    begins_document: bool


def read(description: str, pieces: Iterable[Piece], encoder: Encoder, needed_tokens: int) -> Source:
    """The tokens of the pieces, up to the piece in which `needed_tokens` are reached."""
    blocks, starts, count = [], [], 0
    for piece in pieces:
        if piece.begins_document:
            starts.append(count)
        blocks.append(encoder.encode(piece.content, piece.begins_document))
        count += len(blocks[-1])
        if count >= needed_tokens:
            break
    tokens = np.concatenate(blocks) if blocks else np.empty(0, dtype=np.uint8)
    return Source(
        format=description,
        tokens=tokens,
        tokenizer=encoder.name,
        tokenizer_sha256=encoder.sha256,
        document_starts=starts_of(starts),
    )


def is_jsonl(path: Path, field: str | None, *, in_folder: bool = False) -> bool:
    """Whether a file is read as JSONL: by its ending, or because a field was named."""
    if field is not None:
        return True
    ending = path.suffix.lower()
    return ending in JSONL_ENDINGS and not (in_folder and ending == LONE_JSONL_ENDING)


def path_pieces(root: Path, field: str | None) -> Iterator[Piece]:
    """The pieces of a file, or of a folder's files, read as they are asked for.

    Raises Unusable.
    """
    in_folder = root.is_dir()
    for path in folder_files(root, field) if in_folder else [root]:
        read_file = _jsonl_pieces if is_jsonl(path, field, in_folder=in_folder) else _text_pieces
        try:
            yield from read_file(path, field or DEFAULT_FIELD)
        except OSError as error:
            name = printable(str(path))
            problem = f"{name} cannot be read ({error.strerror}); make it readable or leave it out"
            raise Unusable(problem) from error


def stdlib_pieces() -> Iterator[Piece]:
    """Sources by path inside the library: the same order on every machine.

    Packages that are installed there (site-packages) are left out.
    """
    root = Path(sysconfig.get_path("stdlib"))
    for name in sorted(_library_files(root)):
        yield Piece((root / name).read_bytes(), begins_document=True)


def _library_files(root: Path) -> Iterator[str]:
    """Relative paths of Python files. Folders of packages are not entered: they may be large."""
    for folder, folders, files in os.walk(root):
        place = Path(folder).relative_to(root)
        if place == Path():
            folders[:] = [name for name in folders if name not in PACKAGES]
        yield from ((place / name).as_posix() for name in files if name.endswith(".py"))


def folder_files(folder: Path, field: str | None) -> Iterator[Path]:
    """Regular files in sorted order, without hidden ones (`.git`); with a field only JSONL."""
    for path in sorted(folder.rglob("*"), key=os.fspath):
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if (
            path.is_file()
            and not hidden
            and (field is None or path.suffix.lower() in JSONL_ENDINGS)
        ):
            yield path


def _text_pieces(path: Path, field: str) -> Iterator[Piece]:
    """About a MiB each, up to the end of a line. A user's text has no NUL."""
    with path.open("rb") as stream:
        begins_document = True
        while content := stream.read(PIECE_BYTES) + stream.readline(PIECE_BYTES):
            _check_text(path, content, begins_document)
            yield Piece(content, begins_document)
            begins_document = False


def _check_text(path: Path, content: bytes, is_first: bool) -> None:
    name = printable(str(path))
    words = foreign_words(content) if is_first else None
    if words is not None:
        raise Unusable(f"{name} is {words}")
    if b"\0" in content:
        has_ids = path.suffix.lower() in TOKEN_ENDINGS
        cure = f"give it alone: {name}" if has_ids else f"name their type: {name}:uint16"
        raise Unusable(
            f"{name} is binary (it holds NUL bytes); leave it out, or, if it holds token ids, "
            f"{cure}",
        )


def _jsonl_pieces(path: Path, field: str) -> Iterator[Piece]:
    """The text of every record. Empty lines are passed over, and so is a byte-order mark."""
    with path.open("rb") as stream:
        head = stream.read(HEAD_BYTES)
        _check_text(path, head, is_first=True)
        content = head.removeprefix(_BYTE_ORDER_MARK)
        if content.lstrip()[:1] not in (b"{", b""):
            # Said here, since all of a file may be in its first line.
            raise Unusable(f"{printable(path.name)}, line 1: {_NO_OBJECT}")
        stream.seek(len(head) - len(content))
        for number, line in enumerate(iter(partial(stream.readline, LONGEST_RECORD_BYTES), b""), 1):
            where = f"{printable(path.name)}, line {number}"
            if len(line) == LONGEST_RECORD_BYTES:
                raise Unusable(
                    f"{where} exceeds {LONGEST_RECORD_BYTES} bytes; write one object a line"
                )
            if line.strip():
                yield Piece(_text_of_record(where, line, field), begins_document=True)


def _text_of_record(where: str, line: bytes, field: str) -> bytes:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        problem = f"{where}: no JSON ({error}); write one object a line, or name raw text .txt"
        raise Unusable(problem) from None
    if not isinstance(record, dict):
        raise Unusable(f"{where}: {_NO_OBJECT}")
    if field not in record:
        known = ", ".join(list(record)[:8]) or "none"
        raise Unusable(
            f"{where}: no field '{printable(field)}'; name one of its fields "
            f"({printable(known)}) by --data-field",
        )
    if not isinstance(record[field], str):
        raise Unusable(
            f"{where}: '{printable(field)}' is no text; name another field by --data-field"
        )
    return str(record[field]).encode("utf-8", "replace")
