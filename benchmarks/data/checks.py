"""Whether there are enough token ids, and whether they can be those that were written."""

from __future__ import annotations

import numpy as np

from benchmarks.data.source import Source, Tokens, Unusable
from benchmarks.data.token_files import RAW_DTYPES
from sppo.config.models import Model
from sppo.config.workload import Workload

LEAST_TOKENS = 8
"""Fewer tokens say nothing about every second of them."""

MANY_TOKENS = 64
LARGEST_UPPER_HALF = 31
"""The upper 16 bits of an id of up to 2 million; `MANY_TOKENS` true ids are not all that small."""

LEAST_LOWER_HALF = 1024

WIDE = {2: "int16", 4: "int32", 8: "int64"}
"""Signed type by bytes: the type that files of wide ids mostly have."""


def check_length(source: Source, sequence_tokens: int) -> None:
    """Raise Unusable if the data are shorter than one sequence with its last target."""
    if len(source.tokens) <= sequence_tokens:
        raise Unusable(
            f"holds {len(source.tokens)} tokens, one sequence needs {sequence_tokens + 1}; "
            "give a longer text or a shorter sequence (in a search: --at-most)",
        )


def check_ids(source: Source, tokens: Tokens, workload: Workload) -> None:
    """Raise Unusable, with the likely type, for ids that are not the model's."""
    model = workload.model
    if source.tokenizer is None:
        _check_width(source, tokens, workload.text)
    lowest, highest = int(tokens.min()), int(tokens.max())
    if lowest < 0:
        raise Unusable(f"token id {lowest} is negative; name the type the ids were written with")
    if highest >= model.vocabulary:
        raise Unusable(
            f"token id {highest} is outside the vocabulary of {model.vocabulary} of model "
            f"{model.name}; take a model with a larger vocabulary or a text made by its tokenizer"
            f"{_narrower_words(source, tokens, model)}",
        )
    if source.vocabulary is not None and highest >= source.vocabulary:
        raise Unusable(
            f"token id {highest} is outside the vocabulary of {source.vocabulary} of the meta.pkl "
            f"beside it; name the right type, or remove a meta.pkl of other data",
        )


def _check_width(source: Source, tokens: Tokens, file: str) -> None:
    """Raise Unusable if wide ids were read as narrow ones: every second id is 0, or small."""
    for factor in (8, 4, 2):
        width_bytes = tokens.itemsize * factor
        if width_bytes not in WIDE or not _is_split(tokens, factor):
            continue
        wide = WIDE[width_bytes]
        raise Unusable(
            f"every second id is 0 or small, as if {wide} ids were read as {tokens.dtype.name}; "
            + _type_words(source, file, wide),
        )


def _is_split(tokens: Tokens, factor: int) -> bool:
    """Whether only the first of every `factor` ids has a value."""
    if len(tokens) < LEAST_TOKENS * factor // 2:
        return False
    groups = tokens[: len(tokens) // factor * factor].reshape(-1, factor)
    first, rest = groups[:, 0], groups[:, 1:]
    if not rest.any():
        return bool(first.any())
    return (
        len(tokens) >= MANY_TOKENS
        and tokens.itemsize == 2
        and int(rest.min()) >= 0
        and int(rest.max()) <= LARGEST_UPPER_HALF
        and int(first.max()) >= LEAST_LOWER_HALF
    )


def _narrower_words(source: Source, tokens: Tokens, model: Model) -> str:
    """The type of half the width, where its ids would fit; else nothing."""
    narrow = f"uint{tokens.itemsize * 4}"
    if source.type_from not in ("name", "ending") or narrow not in RAW_DTYPES:
        return ""
    halves = np.ascontiguousarray(tokens).view(narrow)
    fits = int(halves.max()) < model.vocabulary and not _is_split(halves, 2)
    return f", or name the type {narrow}, whose ids would fit" if fits else ""


def _type_words(source: Source, file: str, wide: str) -> str:
    """The cure: who named the type decides where to change it."""
    if source.type_from == "file":
        return "write the file again with the type of the ids"
    return f"name the type of the ids: {_without_type(file)}:{wide}"


def _without_type(file: str) -> str:
    name, _, dtype = file.rpartition(":")
    return name if name and dtype in RAW_DTYPES else file
