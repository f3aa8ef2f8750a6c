"""Files of token ids: numpy arrays, llm.c's files, and raw ids (nanoGPT)."""

from __future__ import annotations

import pickletools
import struct
from math import prod
from pathlib import Path
from tokenize import TokenError
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.data.source import Source, Unusable
from benchmarks.file_names import printable

RAW_DTYPES = ("uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32", "int64")

NUMPY_MAGIC = b"\x93NUMPY"

LLMC_HEADER_BYTES = 256 * 4
LLMC_TOKENS = {20240520: (1, "uint16", "GPT-2"), 20240801: (7, "uint32", "Llama 3")}
"""First int32 of llm.c's token files: version, type of the ids, tokenizer.

Source: llm.c, dev/data/data_common.py. Its train_llama3.py writes checkpoints under 20240801 too,
as versions 3 and 5.
"""

LLMC_OTHERS = {
    20240326: "a checkpoint",
    20240327: "a debugging state",
    20240328: "a tokenizer",
    20240522: "an evaluation set",
}
"""First int32 of llm.c's other files."""

_META_BYTES = 2**24

_BROKEN_NUMPY = (
    ValueError,
    TypeError,
    OSError,
    EOFError,
    SyntaxError,
    TokenError,
    OverflowError,
    MemoryError,
    RecursionError,
    struct.error,
)
"""What numpy raises on a damaged file: it reads the header as a Python literal."""


def open_numpy(path: Path, needed_tokens: int) -> Source:
    """The first ids of a .npy of integers, row by row. Nothing is unpickled. Raises Unusable."""
    try:
        array: npt.NDArray[Any] = np.lib.format.open_memmap(path, mode="r")
    except _BROKEN_NUMPY as error:
        raise Unusable(
            f"not a numpy file ({error}); write it by numpy.save, or, if it holds raw token ids, "
            f"name their type: {printable(str(path))}:uint16",
        ) from error
    if array.dtype.kind not in "iu":
        problem = f"tokens are {array.dtype}, not integers; save them as uint16 or int32"
        raise Unusable(problem)
    array = np.atleast_1d(array)
    row_tokens = max(prod(array.shape[1:]), 1)
    return Source(
        format=f"numpy array, {array.dtype.name} tokens",
        tokens=array[: -(-needed_tokens // row_tokens)].reshape(-1),
        type_from="file",
    )


def llmc_magic(head: bytes) -> int | None:
    """The first int32 of a file of llm.c; None for other files."""
    magic = int.from_bytes(head[:4], "little")
    known = magic in LLMC_TOKENS or magic in LLMC_OTHERS
    return magic if known and len(head) >= 4 else None


def open_llmc(path: Path, magic: int) -> Source:
    """The ids of a token file of llm.c. Raises Unusable for its other files and damaged ones."""
    header = np.fromfile(path, dtype="<i4", count=256)
    version, dtype, tokenizer = LLMC_TOKENS.get(magic, (0, "", ""))
    size_bytes = path.stat().st_size
    if size_bytes < LLMC_HEADER_BYTES:
        raise Unusable(f"llm.c's header is cut off at {size_bytes} bytes; copy it again")
    if header[1] != version:
        kind = LLMC_OTHERS.get(magic, f"version {header[1]} and no token file (version {version})")
        raise Unusable(f"llm.c says it is {kind}; give a file that llm.c trains on")
    count = int(header[2])
    expected_bytes = LLMC_HEADER_BYTES + count * np.dtype(dtype).itemsize
    if count < 1 or size_bytes != expected_bytes:
        raise Unusable(
            f"its header says {count:,} {dtype} tokens, {expected_bytes:,} bytes, and it has "
            f"{size_bytes:,}; copy or make it again",
        )
    return Source(
        format=f"llm.c tokens of {tokenizer}, {dtype}",
        tokens=np.memmap(path, np.dtype(dtype).newbyteorder("<"), "r", LLMC_HEADER_BYTES),
        type_from="file",
    )


def open_raw(path: Path, dtype: str | None) -> Source:
    """Raw little-endian ids of the named type; without one as nanoGPT writes a .bin: uint16.

    Raises Unusable.
    """
    return Source(
        format=f"raw {dtype} tokens" if dtype else "raw uint16 tokens, as nanoGPT writes them",
        tokens=_raw(path, dtype or "uint16"),
        type_from="name" if dtype else "ending",
        vocabulary=meta_vocabulary(path),
    )


def _raw(path: Path, dtype: str) -> npt.NDArray[Any]:
    size_bytes = path.stat().st_size if path.is_file() else 0
    layout = np.dtype(dtype).newbyteorder("<")
    if size_bytes == 0 or size_bytes % layout.itemsize:
        raise Unusable(
            f"{size_bytes} bytes are no whole number of {dtype} tokens; name the right type, "
            f"{printable(str(path))}:TYPE with one of {', '.join(RAW_DTYPES)}",
        )
    return np.memmap(path, dtype=layout, mode="r")


def meta_vocabulary(path: Path) -> int | None:
    """`vocab_size` of nanoGPT's meta.pkl beside the ids; None without one.

    The pickle's instructions are listed, never executed.
    """
    meta = path.with_name("meta.pkl")
    try:
        if meta.stat().st_size > _META_BYTES:
            return None
        return _following_number(meta.read_bytes(), "vocab_size")
    except (OSError, ValueError):
        return None


def _following_number(pickled: bytes, key: str) -> int | None:
    """The integer behind a key of a pickled dictionary. Raises ValueError on other bytes."""
    before: object = None
    for opcode, argument, _ in pickletools.genops(pickled):
        if "PUT" in opcode.name or opcode.name in ("MEMOIZE", "FRAME"):
            continue
        if before == key:
            return argument if isinstance(argument, int) else None
        before = argument
    return None
