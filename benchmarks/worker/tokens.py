"""Real text as token ids, written once per workload and memory-mapped by every rank.

`Workload.text` is one of

    stdlib                the Python standard library's own sources, as bytes (vocabulary 256)
    PATH                  a text file, or a folder of text files in sorted order, as bytes
    PATH.npy              token ids, a numpy array of integers
    PATH:uint16           token ids, raw little-endian integers of the named type
"""

from __future__ import annotations

import hashlib
import os
import platform
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from sppo.config.workload import Workload

RAW_DTYPES = ("uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32", "int64")
_BYTE_VOCABULARY = 256
_CHUNK_TOKENS = 1 << 22

_Tokens = npt.NDArray[np.integer[Any]]


@dataclass(frozen=True, kw_only=True)
class TextSource:
    """Where the tokens of a run come from.

    `tokens` were read from the source; a run that needs more reads them again from the start.
    `sha256` is over exactly their source bytes. `vocabulary` is an upper bound of the ids.
    """

    description: str
    sha256: str
    tokens: int
    vocabulary: int


@dataclass(frozen=True, kw_only=True)
class _Source:
    """An opened source. `tokens` may hold more than was asked for; None says plain bytes."""

    description: str
    tokens: _Tokens
    is_text: bool


def token_file(workload: Workload, steps: int, path: Path) -> TextSource:
    """Write int32 `[steps, sequences_per_step, sequence_tokens + 1]` of consecutive text to `path`.

    Wraps round where the text is shorter than all steps. Writes the whole file or none of it.
    Raises ValueError, naming the cure, if the text cannot be read, is shorter than one sequence,
    or holds a token id that the model's vocabulary does not.
    """
    if steps < 1:
        raise ValueError(f"{steps} steps need no tokens; ask for at least one step")
    width_tokens = workload.sequence_tokens + 1
    needed_tokens = steps * workload.sequences_per_step * width_tokens
    source = _open_source(workload.text, needed_tokens)
    used = source.tokens[:needed_tokens]
    if len(used) < width_tokens:
        raise ValueError(
            f"text {workload.text!r} holds {len(used)} tokens, one sequence needs {width_tokens}; "
            "give a longer text or a shorter sequence"
        )
    sha256, highest = _scan(used, workload)
    shape = (steps, workload.sequences_per_step, width_tokens)
    _write_wrapped(used, shape, path)
    return TextSource(
        description=source.description,
        sha256=sha256,
        tokens=len(used),
        vocabulary=_BYTE_VOCABULARY if source.is_text else highest + 1,
    )


def map_tokens(path: Path) -> npt.NDArray[np.int32]:
    """The array that `token_file` wrote, memory-mapped and read-only.

    Raises ValueError if the file is something else.
    """
    tokens: npt.NDArray[Any] = np.load(path, mmap_mode="r")
    if tokens.dtype != np.int32 or tokens.ndim != 3:
        raise ValueError(
            f"{path}: {tokens.dtype} {tokens.shape} is no token file of this suite; "
            "int32 [steps, sequences, tokens + 1] was expected"
        )
    return tokens


def _open_source(text: str, needed_tokens: int) -> _Source:
    if text == "stdlib":
        description = f"Python {platform.python_version()} standard library sources, as bytes"
        return _text_source(description, _read_files(_stdlib_files(), needed_tokens, text=None))
    name, _, dtype = text.rpartition(":")
    if name and dtype in RAW_DTYPES:
        return _raw_source(_existing(name), dtype)
    path = _existing(text)
    if path.is_dir():
        files = _folder_files(path)
        description = f"text files of {path.name}, as bytes"
        return _text_source(description, _read_files(files, needed_tokens, text=text))
    if path.suffix == ".npy":
        return _npy_source(path)
    description = f"{path.name}, as bytes"
    return _text_source(description, _read_files(iter([path]), needed_tokens, text=text))


def _existing(name: str) -> Path:
    path = Path(name).expanduser()
    if not path.exists():
        raise ValueError(
            f"text {name!r}: no such file or folder; give 'stdlib', a text file or folder, "
            "a token file PATH.npy, or raw tokens as PATH:uint16"
        )
    return path


def _text_source(description: str, content: bytes) -> _Source:
    tokens = np.frombuffer(content, dtype=np.uint8)
    return _Source(description=description, tokens=tokens, is_text=True)


def _stdlib_files() -> Iterator[Path]:
    """In the order of their paths inside the library, which is the same wherever it is installed.

    What is installed on top of it (site-packages) is no part of it.
    """
    root = Path(sysconfig.get_path("stdlib"))
    inside = sorted(path.relative_to(root).as_posix() for path in root.rglob("*.py"))
    for name in inside:
        if not name.startswith(("site-packages/", "dist-packages/")):
            yield root / name


def _folder_files(folder: Path) -> Iterator[Path]:
    """Regular files in sorted order; hidden ones (`.git`) are left out."""
    for path in sorted(folder.rglob("*")):
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if path.is_file() and not hidden:
            yield path


def _read_files(files: Iterator[Path], needed_bytes: int, *, text: str | None) -> bytes:
    """The first `needed_bytes` of the files one after another, or all there is.

    With `text` (what the user wrote) a file with NUL bytes is refused.
    """
    content = bytearray()
    for path in files:
        try:
            with path.open("rb") as file:
                piece = file.read(needed_bytes - len(content))
        except OSError as error:
            raise ValueError(
                f"text {text!r}: {path} cannot be read ({error.strerror}); "
                "make it readable or leave it out"
            ) from error
        if text is not None and b"\0" in piece:
            raise ValueError(
                f"text {text!r}: {path} is binary (it holds NUL bytes); leave it out, or, if it "
                f"holds raw token ids, name their type: {path}:uint16"
            )
        content += piece
        if len(content) >= needed_bytes:
            break
    return bytes(content)


def _npy_source(path: Path) -> _Source:
    try:
        tokens: npt.NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise ValueError(
            f"text {path}: not a numpy file ({error}); write it by numpy.save"
        ) from error
    if tokens.dtype.kind not in "iu":
        raise ValueError(
            f"text {path}: tokens are {tokens.dtype}, not integers; save them as uint16 or int32"
        )
    return _Source(
        description=f"{path.name}, {tokens.dtype} tokens", tokens=tokens.reshape(-1), is_text=False
    )


def _raw_source(path: Path, dtype: str) -> _Source:
    size_bytes = path.stat().st_size if path.is_file() else 0
    layout = np.dtype(dtype).newbyteorder("<")
    if size_bytes == 0 or size_bytes % layout.itemsize:
        raise ValueError(
            f"text {path}: {size_bytes} bytes are no whole number of {dtype} tokens; "
            f"name the right type, one of {', '.join(RAW_DTYPES)}"
        )
    tokens = np.memmap(path, dtype=layout, mode="r")
    return _Source(description=f"{path.name}, {dtype} tokens", tokens=tokens, is_text=False)


def _chunks(tokens: _Tokens) -> Iterator[_Tokens]:
    for start in range(0, len(tokens), _CHUNK_TOKENS):
        yield tokens[start : start + _CHUNK_TOKENS]


def _scan(tokens: _Tokens, workload: Workload) -> tuple[str, int]:
    """SHA-256 of the source bytes and the highest id. Raises ValueError for an id out of range."""
    digest = hashlib.sha256()
    highest = 0
    for chunk in _chunks(tokens):
        digest.update(np.ascontiguousarray(chunk).tobytes())
        highest = max(highest, int(chunk.max()))
        if int(chunk.min()) < 0:
            raise ValueError(
                f"text {workload.text!r}: token id {int(chunk.min())} is negative; "
                "name the type the ids were written with"
            )
    model = workload.model
    if highest >= model.vocabulary:
        raise ValueError(
            f"text {workload.text!r}: token id {highest} is outside the vocabulary of "
            f"{model.vocabulary} of model {model.name}; take a model with a larger vocabulary or "
            "a text made by its tokenizer"
        )
    return digest.hexdigest(), highest


def _write_wrapped(tokens: _Tokens, shape: tuple[int, int, int], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        array = np.lib.format.open_memmap(temporary, mode="w+", dtype=np.int32, shape=shape)
        flat = array.reshape(-1)
        filled = 0
        while filled < len(flat):
            for chunk in _chunks(tokens[: len(flat) - filled]):
                flat[filled : filled + len(chunk)] = chunk
                filled += len(chunk)
        array.flush()
        del array, flat
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
