"""A workload's data as token ids, written once per workload and memory-mapped by every rank.

All systems read this one file. Formats of the data: `benchmarks.data`.
"""

from __future__ import annotations

import hashlib
from io import BytesIO
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from benchmarks.data.checks import check_ids, check_length
from benchmarks.data.formats import open_source
from benchmarks.data.source import Source, Tokens, named
from benchmarks.file_names import printable
from benchmarks.job import Job, Phase, throw_away_tokens
from benchmarks.records import store
from benchmarks.records.record import Text
from sppo.config.workload import Workload


def token_file(workload: Workload, steps: int, path: Path) -> Text:
    """Write int32 `[steps, sequences_per_step, sequence_tokens + 1]` of consecutive text to `path`.

    A short text is repeated from its start. The SHA-256 covers the source bytes of the tokens in
    use. The file is written whole or not at all. Raises ValueError with the cure if the data cannot
    be read, are shorter than one sequence, or have a token id outside the model's vocabulary.
    """
    shape = (steps, workload.sequences_per_step, workload.sequence_tokens + 1)
    with named(workload.text):
        source = open_source(workload, prod(shape))
        tokens = source.tokens[: prod(shape)]
        check_length(source, workload.sequence_tokens)
        check_ids(source, tokens, workload)
    _write_repeated(tokens, shape, path)
    return _text_of(workload.text, source, tokens)


def _text_of(file: str, source: Source, tokens: Tokens) -> Text:
    if source.tokenizer is None:
        description = f"{printable(Path(file).name)}, {source.format}"
    else:
        description = f"{source.format}, as {source.tokenizer}"
    return Text(
        description=description,
        sha256=hashlib.sha256(np.ascontiguousarray(tokens).data).hexdigest(),
        file=printable(file),
        tokenizer=source.tokenizer,
        tokenizer_sha256=source.tokenizer_sha256,
        tokens_read=len(tokens),
        documents_crossed=source.documents_crossed(len(tokens)),
    )


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


def _write_repeated(tokens: Tokens, shape: tuple[int, int, int], path: Path) -> None:
    """Written, not mapped: on a full disk a write fails, and a mapped page kills the process."""
    array = np.resize(tokens.astype(np.int32), shape)
    header = BytesIO()
    np.lib.format.write_array_header_1_0(header, np.lib.format.header_data_from_array_1_0(array))
    path.parent.mkdir(parents=True, exist_ok=True)
    store.write_bytes(path, header.getbuffer(), array.data)
