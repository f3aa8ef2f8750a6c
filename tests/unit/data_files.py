"""Small files of ours in the formats that other programs write."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from benchmarks.worker.tokens import map_tokens
from sppo.config.models import gpt
from sppo.config.workload import Cluster, Workload

CODES = ("uint8", "int8", "int16", "int32", "int64", "float64", "float32", "uint16")
"""Megatron's types of ids by code, from 1."""


def workload(
    text: object,
    *,
    sequence_tokens: int = 7,
    vocabulary: int = 256,
    data_field: str | None = None,
    tokenizer: str | None = None,
) -> Workload:
    """Two sequences a step: 16 tokens are read for a step of 7."""
    return Workload(
        name="words",
        model=gpt("words", layers=1, hidden=8, heads=1, vocabulary=vocabulary),
        cluster=Cluster(hardware="cpu", device="cpu", nodes=1, ranks_per_node=1),
        sequence_tokens=sequence_tokens,
        sequences_per_step=2,
        text=str(text),
        data_field=data_field,
        tokenizer=tokenizer,
    )


def flat(path: Path) -> npt.NDArray[np.int32]:
    """All tokens of a token file."""
    return map_tokens(path).reshape(-1)


def write_megatron(
    stem: Path, documents: Sequence[Sequence[int]], dtype: str, places: Sequence[int] | None = None
) -> Path:
    """The pair of documents of one sequence each; the path of the .bin."""
    lengths = [len(document) for document in documents]
    content = np.array([token for document in documents for token in document], dtype=dtype)
    path = stem.with_name(f"{stem.name}.bin")
    content.tofile(path)
    if places is None:
        width = content.itemsize
        places = [width * sum(lengths[:index]) for index in range(len(lengths))]
    marks = range(len(documents) + 1)
    stem.with_name(f"{stem.name}.idx").write_bytes(
        b"MMIDIDX\x00\x00"
        + struct.pack("<QBQQ", 1, CODES.index(dtype) + 1, len(lengths), len(marks))
        + np.array(lengths, dtype=np.int32).tobytes()
        + np.array(places, dtype=np.int64).tobytes()
        + np.array(marks, dtype=np.int64).tobytes()
    )
    return path


def write_llmc(path: Path, ids: Sequence[int], magic: int, version: int, dtype: str) -> Path:
    """A file of llm.c: 256 int32, then the ids."""
    header = np.zeros(256, dtype=np.int32)
    header[:3] = magic, version, len(ids)
    path.write_bytes(header.tobytes() + np.array(ids, dtype=dtype).tobytes())
    return path
