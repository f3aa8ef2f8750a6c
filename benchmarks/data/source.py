"""What was read of a workload's data."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from benchmarks.file_names import printable

Tokens = npt.NDArray[Any]
"""Token ids: integers of any width, [tokens]. Files are memory-mapped."""

Starts = npt.NDArray[np.int64]
"""Tokens at which documents begin, ascending, [documents]."""

BYTES = "bytes"
"""The tokenizer of text without a `tokenizer.json`: a byte is a token."""


class Unusable(ValueError):
    """Data that give no tokens. The words name the fault and end with the cure."""


@contextmanager
def named(file: str) -> Iterator[None]:
    """Inside, an Unusable becomes a printable ValueError that names the data."""
    try:
        yield
    except Unusable as error:
        words = " ".join(str(error).split())
        raise ValueError(printable(f"data '{printable(file)}': {words}")) from error.__cause__


@dataclass(frozen=True, kw_only=True)
class Source:
    """The first token ids of a workload's data, maybe more than were asked for.

    type_from: who decided the width of the ids; None for text.
    tokenizer: None for files of ids. vocabulary: ids of the file lie below, if it says so.
    document_starts: None where the format marks no documents.
    """

    format: str
    tokens: Tokens
    type_from: Literal["name", "ending", "file"] | None = None
    tokenizer: str | None = None
    tokenizer_sha256: str | None = None
    vocabulary: int | None = None
    document_starts: Starts | None = None

    def documents_crossed(self, tokens: int) -> int | None:
        """How often the first `tokens` pass from a document to the next; None if unknown."""
        if self.document_starts is None:
            return None
        starts = self.document_starts
        return int(np.unique(starts[(starts > 0) & (starts < tokens)]).size)


def starts_of(offsets: Iterable[int]) -> Starts:
    """Offsets of documents as an array."""
    return np.fromiter(offsets, dtype=np.int64)
