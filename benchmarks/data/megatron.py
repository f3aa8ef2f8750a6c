"""Megatron's indexed datasets: `NAME.bin` has the ids, `NAME.idx` their type and documents.

The layout is that of `megatron/core/datasets/indexed_dataset.py` (megatron-core 0.16.1), version 1:
header, uint64 version, uint8 type code, uint64 sequences, uint64 document marks, then int32 lengths
in tokens, int64 places in bytes, int64 marks (sequences), and for multimodal data int8 modes.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from benchmarks.data.source import Source, Tokens, Unusable

MAGIC = b"MMIDIDX\x00\x00"
LEGACY_MAGIC = b"TNTIDX\x00\x00"

DTYPES = {
    1: "uint8",
    2: "int8",
    3: "int16",
    4: "int32",
    5: "int64",
    6: "float64",
    7: "float32",
    8: "uint16",
}
"""Type of the ids by its code."""

_HEADER = struct.Struct("<9sQBQQ")
_FIRST_SEQUENCES = 1024


@dataclass(frozen=True, kw_only=True)
class Index:
    """A mapped .idx. lengths: [sequences] tokens; places: [sequences] bytes; marks: sequences."""

    dtype: np.dtype[np.generic]
    lengths: npt.NDArray[np.int32]
    places: npt.NDArray[np.int64]
    marks: npt.NDArray[np.int64]


def is_index(head: bytes) -> bool:
    """Whether a file that begins with `head` is an index, of today or of old."""
    return head.startswith((MAGIC, LEGACY_MAGIC))


def open_pair(stem: Path, needed_tokens: int) -> Source:
    """The first tokens of `stem`.bin. Raises Unusable if the pair is damaged or incomplete."""
    index_path, tokens_path = (stem.with_name(f"{stem.name}{end}") for end in (".idx", ".bin"))
    for path in (index_path, tokens_path):
        if not path.is_file():
            raise Unusable(f"{path.name} is missing beside it; give the pair .bin and .idx")
    index = read_index(index_path)
    size_bytes = tokens_path.stat().st_size
    _check_extent(index, size_bytes)
    lengths, places = _first_sequences(index, needed_tokens)
    offsets = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
    content = np.memmap(tokens_path, dtype=np.uint8, mode="r") if size_bytes else _nothing()
    tokens = _gather(content, index.dtype, offsets, places)
    starts = offsets[_first_marks(index, len(lengths))]
    return Source(
        format=f"Megatron .bin and .idx, {index.dtype.name} tokens",
        tokens=_whole_numbers(tokens[:needed_tokens]),
        type_from="file",
        document_starts=starts,
    )


def read_index(path: Path) -> Index:
    """The mapped index. Raises Unusable for any other file."""
    with path.open("rb") as stream:
        head = stream.read(_HEADER.size)
    if head.startswith(LEGACY_MAGIC):
        raise Unusable(
            f"{path.name} is an index of old Megatron; make the pair by Megatron-Core's tools"
        )
    if len(head) < _HEADER.size or not head.startswith(MAGIC):
        raise Unusable(f"{path.name} is no index of Megatron; make the pair again")
    _, version, code, sequences, marks = _HEADER.unpack(head)
    if version != 1 or code not in DTYPES:
        raise Unusable(
            f"{path.name} has version {version} and type code {code}; version 1 and the codes "
            f"1 to {max(DTYPES)} can be read",
        )
    if not sequences:
        raise Unusable(f"{path.name} has no sequences; make the pair from a longer text")
    size_bytes = path.stat().st_size
    if size_bytes < _HEADER.size + 12 * sequences + 8 * marks:
        raise Unusable(
            f"{path.name} has {size_bytes:,} bytes, too few for {sequences:,} sequences; "
            "it is cut off, copy it again",
        )
    lengths = np.memmap(path, "<i4", "r", _HEADER.size, (sequences,))
    places = np.memmap(path, "<i8", "r", _HEADER.size + 4 * sequences, (sequences,))
    beyond = _HEADER.size + 12 * sequences
    return Index(
        dtype=np.dtype(DTYPES[code]).newbyteorder("<"),
        lengths=lengths,
        places=places,
        marks=np.memmap(path, "<i8", "r", beyond, (marks,)) if marks else _nothing(),
    )


def _nothing() -> npt.NDArray[np.int64]:
    return np.empty(0, dtype=np.int64)


def _check_extent(index: Index, size_bytes: int) -> None:
    """Raise Unusable if the last sequence ends behind the end of the .bin."""
    end = int(index.places[-1]) + int(index.lengths[-1]) * index.dtype.itemsize
    if end > size_bytes:
        raise Unusable(
            f"its .idx describes {end:,} bytes and its .bin has {size_bytes:,}; "
            "they are no pair, or the .bin is cut off",
        )


def _first_sequences(
    index: Index, needed_tokens: int
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int64]]:
    """Lengths and places of the sequences that hold the first `needed_tokens`."""
    count = _FIRST_SEQUENCES
    while True:
        lengths = np.asarray(index.lengths[:count])
        if lengths.min() < 0:
            raise Unusable("its .idx is damaged (a length below 0); make the pair again")
        ends = np.cumsum(lengths, dtype=np.int64)
        if ends[-1] >= needed_tokens or count >= len(index.lengths):
            break
        count *= 4
    count = int(np.searchsorted(ends, needed_tokens)) + 1
    lengths = lengths[:count]
    return lengths, np.asarray(index.places[: len(lengths)])


def _first_marks(index: Index, sequences: int) -> npt.NDArray[np.int64]:
    """The marks of documents that begin in the first sequences. Empty documents share a mark."""
    marks = np.asarray(index.marks[: int(np.searchsorted(index.marks, sequences))])
    if len(marks) and (marks[0] != 0 or marks[-1] >= sequences or (np.diff(marks) < 0).any()):
        raise Unusable("its .idx is damaged (documents out of order); make the pair again")
    return marks


def _gather(
    content: npt.NDArray[np.uint8] | npt.NDArray[np.int64],
    dtype: np.dtype[np.generic],
    offsets: npt.NDArray[np.int64],
    places: npt.NDArray[np.int64],
) -> Tokens:
    """The sequences at `places` one after another: a view where the file has them in order."""
    begins, ends = places, places + np.diff(offsets) * dtype.itemsize
    if (begins < 0).any() or (ends < begins).any() or (ends > len(content)).any():
        raise Unusable("its .idx is damaged (a place outside the .bin); make the pair again")
    if (begins[1:] == ends[:-1]).all():
        return content[begins[0] : ends[-1]].view(dtype)
    pairs = zip(begins, ends, strict=True)
    return np.concatenate([content[begin:end].view(dtype) for begin, end in pairs])


def _whole_numbers(tokens: Tokens) -> Tokens:
    """Ids that were written as floats, as integers. Raises Unusable for broken numbers."""
    if tokens.dtype.kind != "f":
        return tokens
    with np.errstate(invalid="ignore"):
        if not (tokens == np.floor(tokens)).all():
            raise Unusable(f"its ids are {tokens.dtype.name} and not whole; make it again")
        return tokens.astype(np.int64)
