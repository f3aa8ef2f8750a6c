"""Sizes: of elements, tokens and memory, read from text and written for people.

They follow the field: 1K = 1,024 tokens, 1M = 1,048,576 tokens, GiB = 2**30 bytes.
"""

from __future__ import annotations

import math
import re
from typing import Literal

KIB = 1024
MIB = 1024**2
GIB = 1024**3

Dtype = Literal["float32", "float64", "bfloat16"]

DTYPE_BYTES = {"float32": 4, "float64": 8, "bfloat16": 2, "float16": 2}
"""Bytes of one element. Workloads have a `Dtype`; a hardware profile may also be of float16."""

_SUFFIX = {"": 1, "K": 1024, "M": 1024**2, "G": 1024**3}


def parse_tokens(text: str) -> int:
    """Tokens from "4096", "128K" or "1M" (1K = 1,024). Raises ValueError naming the cure.

    A count that is not whole is rounded up to one that ranks can share: "1.3M" to whole K.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([KMG]?)", text.strip(), flags=re.IGNORECASE)
    if match is None:
        raise ValueError(f"not a token count: {text!r}; write 4096, 128K or 1M")
    unit = _SUFFIX[match[2].upper()]
    tokens = float(match[1]) * unit
    step = max(1, min(KIB, unit // 64))
    return int(tokens) if tokens.is_integer() else math.ceil(tokens / step) * step


def parse_bytes(text: str) -> int | None:
    """Bytes from "160MiB", "79.15GiB" or "4096"; "none" is None. Raises ValueError."""
    if text.strip().lower() == "none":
        return None
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(?:([KMG])i?B?|B)?", text.strip(), flags=re.IGNORECASE)
    if match is None:
        raise ValueError(f"not a size: {text!r}; write 160MiB, 79.15GiB or none")
    size_bytes = round(float(match[1]) * _SUFFIX[(match[2] or "").upper()])
    if size_bytes < 1:
        raise ValueError(f"not a size: {text!r}; it must be positive")
    return size_bytes


def divisors(number: int) -> list[int]:
    """All divisors of a positive number, smallest first."""
    return [divisor for divisor in range(1, number + 1) if number % divisor == 0]


def format_bytes(size_bytes: int) -> str:
    """ "160 MiB", "1.50 GiB": for people; records keep bytes."""
    if size_bytes >= GIB:
        return f"{size_bytes / GIB:.2f} GiB"
    if size_bytes >= MIB:
        return f"{size_bytes / MIB:.1f} MiB"
    return f"{size_bytes / KIB:.1f} KiB"


ALIGNMENT_BYTES = 256


def slot_bytes(size_bytes: int) -> int:
    """A slot's size: the tensor's bytes rounded up to the arena's alignment."""
    return -(-size_bytes // ALIGNMENT_BYTES) * ALIGNMENT_BYTES


def limit_words(limit_bytes: int | None) -> str:
    """A device limit for people: "136.0 MiB" or "no limit"."""
    return "no limit" if limit_bytes is None else format_bytes(limit_bytes)


def length_name(tokens: int) -> str:
    """ "4,096", "128K", "1M": tokens for people, 1K = 1,024."""
    for suffix, unit in (("M", 1024**2), ("K", 1024)):
        if tokens % unit == 0 and tokens >= 16 * 1024:
            return f"{tokens // unit}{suffix}"
    return f"{tokens:,}"


def limit_label(device_memory_bytes: int | None) -> str:
    """A limit as part of a file name: "152MiB", "none"; exact, so that it parses back."""
    if device_memory_bytes is None:
        return "none"
    for suffix, unit in (("GiB", GIB), ("MiB", MIB)):
        if device_memory_bytes % unit == 0:
            return f"{device_memory_bytes // unit}{suffix}"
    return f"{device_memory_bytes}B"
