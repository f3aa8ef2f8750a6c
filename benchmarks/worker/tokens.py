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
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from benchmarks.job import Job, Phase, throw_away_tokens
from benchmarks.records.record import Text
from sppo.config.workload import Workload

RAW_DTYPES = ("uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32", "int64")

_Tokens = npt.NDArray[np.integer[Any]]


def token_file(workload: Workload, steps: int, path: Path) -> Text:
    """Write int32 `[steps, sequences_per_step, sequence_tokens + 1]` of consecutive text to `path`.

    A short text is repeated from its start. The SHA-256 covers the source bytes of the tokens in
    use. The file is written whole or not at all. Raises ValueError with the cure if the text cannot
    be read, is shorter than one sequence, or has a token id outside the model's vocabulary.
    """
    width_tokens = workload.sequence_tokens + 1
    shape = (steps, workload.sequences_per_step, width_tokens)
    description, source = _open_source(workload.text, int(np.prod(shape)))
    tokens = source[: int(np.prod(shape))]
    if len(tokens) < width_tokens:
        raise _unusable(
            workload.text,
            f"holds {len(tokens)} tokens, one sequence needs {width_tokens}; "
            "give a longer text or a shorter sequence",
        )
    _check_ids(tokens, workload)
    _write_repeated(tokens, shape, path)
    digest = hashlib.sha256(np.ascontiguousarray(tokens).data).hexdigest()
    return Text(description=description, sha256=digest)


def map_tokens(path: Path) -> npt.NDArray[np.int32]:
    """The array that `token_file` wrote, memory-mapped and read-only.

    Raises ValueError for any other file.
    """
    tokens: npt.NDArray[Any] = np.load(path, mmap_mode="r")
    if tokens.dtype != np.int32 or tokens.ndim != 3:
        raise ValueError(
            f"{path}: {tokens.dtype} {tokens.shape} is no token file of this suite; "
            "int32 [steps, sequences, tokens + 1] was expected"
        )
    return tokens


def job_tokens(job: Job) -> npt.NDArray[np.int32]:
    """The mapped token file of a job. Raises ValueError if its shape is not that of the job."""
    tokens = map_tokens(Path(job.tokens_path))
    workload = job.workload
    wanted = (len(job.phases), workload.sequences_per_step, workload.sequence_tokens + 1)
    if tokens.shape[0] < wanted[0] or tokens.shape[1:] != wanted[1:]:
        raise ValueError(
            f"{job.tokens_path} holds {list(tokens.shape)} tokens, the job reads {list(wanted)}; "
            "write the token file again for this workload and number of steps"
        )
    return tokens


def step_tokens(
    workload: Workload, tokens: npt.NDArray[np.int32], index: int, phase: Phase
) -> torch.Tensor:
    """The tokens of step `index`: int64 [sequences, T + 1] on the CPU."""
    throw_away = phase == "throw-away"
    length_tokens = throw_away_tokens(workload) if throw_away else workload.sequence_tokens
    return torch.from_numpy(tokens[index, :, : length_tokens + 1].astype(np.int64))


def _unusable(text: str, problem: str) -> ValueError:
    """The error for a text; `problem` ends with the cure."""
    return ValueError(f"text {text!r}: {problem}")


def _open_source(text: str, needed_tokens: int) -> tuple[str, _Tokens]:
    """Description and token ids of a text, maybe more ids than are needed."""
    if text == "stdlib":
        description = f"Python {platform.python_version()} standard library sources, as bytes"
        return description, _read_bytes(text, _stdlib_files(), needed_tokens)
    name, _, dtype = text.rpartition(":")
    if name and dtype in RAW_DTYPES:
        path = _existing(text, name)
        return f"{path.name}, {dtype} tokens", _raw_tokens(text, path, dtype)
    path = _existing(text, text)
    if path.is_dir():
        files = _read_bytes(text, _folder_files(path), needed_tokens)
        return f"text files of {path.name}, as bytes", files
    if path.suffix == ".npy":
        tokens = _numpy_tokens(text, path)
        return f"{path.name}, {tokens.dtype} tokens", tokens
    return f"{path.name}, as bytes", _read_bytes(text, [path], needed_tokens)


def _existing(text: str, name: str) -> Path:
    path = Path(name).expanduser()
    if not path.exists():
        raise _unusable(
            text,
            "no such file or folder; give 'stdlib', a text file or folder, "
            "a token file PATH.npy, or raw tokens as PATH:uint16",
        )
    return path


def _stdlib_files() -> Iterable[Path]:
    """Sources by path inside the library: the same order on every machine.

    Packages that are installed there (site-packages) are left out.
    """
    root = Path(sysconfig.get_path("stdlib"))
    names = sorted(path.relative_to(root).as_posix() for path in root.rglob("*.py"))
    packages = ("site-packages/", "dist-packages/")
    return (root / name for name in names if not name.startswith(packages))


def _folder_files(folder: Path) -> Iterable[Path]:
    """Regular files in sorted order, without hidden ones (`.git`)."""
    for path in sorted(folder.rglob("*")):
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if path.is_file() and not hidden:
            yield path


def _read_bytes(text: str, files: Iterable[Path], needed_bytes: int) -> _Tokens:
    """The first `needed_bytes` of the files in order, or all bytes. A user's text has no NUL."""
    content = bytearray()
    for path in files:
        try:
            with path.open("rb") as file:
                piece = file.read(needed_bytes - len(content))
        except OSError as error:
            problem = f"{path} cannot be read ({error.strerror}); make it readable or leave it out"
            raise _unusable(text, problem) from error
        if text != "stdlib" and b"\0" in piece:
            raise _unusable(
                text,
                f"{path} is binary (it holds NUL bytes); leave it out, or, if it "
                f"holds raw token ids, name their type: {path}:uint16",
            )
        content += piece
        if len(content) >= needed_bytes:
            break
    return np.frombuffer(content, dtype=np.uint8)


def _numpy_tokens(text: str, path: Path) -> _Tokens:
    try:
        tokens: npt.NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise _unusable(text, f"not a numpy file ({error}); write it by numpy.save") from error
    if tokens.dtype.kind not in "iu":
        problem = f"tokens are {tokens.dtype}, not integers; save them as uint16 or int32"
        raise _unusable(text, problem)
    return tokens.reshape(-1)


def _raw_tokens(text: str, path: Path, dtype: str) -> _Tokens:
    size_bytes = path.stat().st_size if path.is_file() else 0
    layout = np.dtype(dtype).newbyteorder("<")
    if size_bytes == 0 or size_bytes % layout.itemsize:
        raise _unusable(
            text,
            f"{size_bytes} bytes are no whole number of {dtype} tokens; "
            f"name the right type, one of {', '.join(RAW_DTYPES)}",
        )
    return np.memmap(path, dtype=layout, mode="r")


def _check_ids(tokens: _Tokens, workload: Workload) -> None:
    """Raise ValueError for a token id outside the model's vocabulary."""
    lowest, highest, model = int(tokens.min()), int(tokens.max()), workload.model
    if lowest < 0:
        problem = f"token id {lowest} is negative; name the type the ids were written with"
        raise _unusable(workload.text, problem)
    if highest >= model.vocabulary:
        raise _unusable(
            workload.text,
            f"token id {highest} is outside the vocabulary of {model.vocabulary} of model "
            f"{model.name}; take a model with a larger vocabulary or a text made by its tokenizer",
        )


def _write_repeated(tokens: _Tokens, shape: tuple[int, int, int], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        array = np.lib.format.open_memmap(temporary, mode="w+", dtype=np.int32, shape=shape)
        array[...] = np.resize(tokens, shape)
        array.flush()
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
