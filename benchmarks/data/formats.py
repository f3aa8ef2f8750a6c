"""From the name that a user gives to its tokens: by type, ending, and first bytes.

The order is that of the table in `docs/data.md`.
"""

from __future__ import annotations

import platform
from pathlib import Path

from benchmarks.data import megatron, texts, token_files
from benchmarks.data.encoders import ByteEncoder, Encoder, TokenizerEncoder
from benchmarks.data.foreign import foreign_words
from benchmarks.data.source import Source, Unusable
from benchmarks.data.token_files import NUMPY_MAGIC, RAW_DTYPES
from benchmarks.file_names import openable, printable
from sppo.config.workload import Workload

STDLIB = "stdlib"
HEAD_BYTES = 4096


def open_source(workload: Workload, needed_tokens: int) -> Source:
    """The first tokens of a workload's data. Raises Unusable with the cure, or OSError."""
    file = workload.text
    if not file.strip():
        raise Unusable("the name is empty; name a file or folder, or leave --data out")
    if file == STDLIB:
        if workload.data_field is not None:
            raise Unusable("it has no fields; leave --data-field out")
        description = f"Python {platform.python_version()} standard library sources"
        encoder = _encoder(workload, errors="replace")
        return texts.read(description, texts.stdlib_pieces(), encoder, needed_tokens)
    ids = _open_ids(file, needed_tokens)
    if ids is None:
        return _open_text(workload, needed_tokens)
    if workload.tokenizer is not None or workload.data_field is not None:
        raise Unusable(
            "it holds token ids already; leave --tokenizer and --data-field out, or give the text"
        )
    return ids


def _encoder(workload: Workload, errors: str = "strict") -> Encoder:
    if workload.tokenizer is None:
        return ByteEncoder()
    return TokenizerEncoder(workload.tokenizer, errors)


def _open_text(workload: Workload, needed_tokens: int) -> Source:
    file, field = workload.text, workload.data_field
    path = openable(file)
    name = printable(path.resolve().name)
    if path.is_dir():
        description = f"text files of {name}"
    elif texts.is_jsonl(path, field):
        description = f"{name}, JSONL, field '{printable(field or texts.DEFAULT_FIELD)}'"
    else:
        description = name
    pieces = texts.path_pieces(path, field)
    return texts.read(description, pieces, _encoder(workload), needed_tokens)


def _open_ids(file: str, needed_tokens: int) -> Source | None:
    """The ids of a file of ids; None for text. Raises Unusable for a file of neither."""
    name, _, dtype = file.rpartition(":")
    if name and dtype in RAW_DTYPES:
        path = _existing(name)
        _check_named_type(path, dtype)
        return token_files.open_raw(path, dtype)
    path = openable(file)
    stem = _pair_stem(path)
    if stem is not None:
        return megatron.open_pair(stem, needed_tokens)
    path = _existing(file)
    if path.is_dir():
        return None
    if not path.is_file():
        raise Unusable("no regular file (a pipe or a device); write its content to a file")
    head = _head(path)
    ending = path.suffix.lower()
    if ending in (".npy", ".npz") or head.startswith(NUMPY_MAGIC):
        words = foreign_words(head)
        if words is not None:
            raise Unusable(f"no numpy array but {words}")
        return token_files.open_numpy(path, needed_tokens)
    magic = token_files.llmc_magic(head)
    if magic is not None:
        return token_files.open_llmc(path, magic)
    if ending != ".bin":
        return None
    if head and _is_plain_text(head):
        raise Unusable("it looks like text; name it .txt, or name the type of its ids")
    return token_files.open_raw(path, None)


def _pair_stem(path: Path) -> Path | None:
    """The path of a Megatron pair without its ending; None for other files."""
    if path.suffix in (".bin", ".idx") and path.is_file():
        is_pair = path.suffix == ".idx" and megatron.is_index(_head(path))
        is_pair |= path.suffix == ".bin" and path.with_suffix(".idx").is_file()
        return path.with_suffix("") if is_pair else None
    index = path.with_name(f"{path.name}.idx")
    return path if not path.exists() and index.is_file() else None


def _check_named_type(path: Path, dtype: str) -> None:
    """Raise Unusable where the file itself says that it has another type or a header."""
    if not path.is_file():
        return
    head, plain = _head(path), printable(str(path))
    if head.startswith(NUMPY_MAGIC):
        raise Unusable(f"it is a numpy array, which says its type; give {plain}")
    if token_files.llmc_magic(head) is not None:
        raise Unusable(f"it has a header of llm.c, which says its type; give {plain}")
    index = path.with_suffix(".idx")
    if path.suffix == ".bin" and index.is_file() and megatron.is_index(_head(index)):
        written = megatron.read_index(index).dtype.name
        if written != dtype:
            raise Unusable(f"its .idx says {written}; give {plain}, which reads the .idx")


def _existing(name: str) -> Path:
    path = openable(name)
    if path.exists():
        return path
    stem, _, dtype = name.rpartition(":")
    if stem and openable(stem).exists():
        known = ", ".join(RAW_DTYPES)
        raise Unusable(f"'{printable(dtype)}' is no type of token ids; known: {known}")
    raise Unusable(
        "no such file or folder; give 'stdlib', a text file or folder, JSONL, "
        "a token file (.npy, .bin), or raw tokens as PATH:uint16",
    )


def _head(path: Path) -> bytes:
    with path.open("rb") as stream:
        return stream.read(HEAD_BYTES)


def _is_plain_text(head: bytes) -> bool:
    """Whether the bytes are UTF-8 without control characters. A cut last character is passed."""
    text = head.decode("utf-8", "ignore")
    is_utf8 = len(text.encode()) >= len(head) - 3
    return is_utf8 and all(character.isprintable() or character.isspace() for character in text)
