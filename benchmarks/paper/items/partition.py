"""The partition of fig. 4 and 5: llama-65B at 128K, one layer a GPU, N 8 and 16, in two weighings.

The paper weighs attention without a mask: every query with every key of the sequence. A causal
model needs half of these pairs. Sizes are 36 h bytes a token and layer, as the paper counts them.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass

from benchmarks.paper import reported
from benchmarks.paper.items.profile import testbed
from sppo.config.models import MODELS, Model
from sppo.config.sizes import parse_tokens
from sppo.cost_model.times import block_seconds
from sppo.planner.layouts.partition import flops_balanced_cut

MODEL, LENGTH = "gpt-65b", "128K"

COUNTS = (8, 16)
"""Values of N."""

CAUSAL, NON_CAUSAL = "causal weights", "the paper's non-causal weights"

WEIGHTS = (CAUSAL, NON_CAUSAL)

BYTES_PER_HIDDEN = 36
"""Activation bytes of a token and layer over the hidden size, as the paper counts them."""

BYTES_SOURCE = "sppo/planner/layouts/partition.py and the paper's 36 h bytes"
"""Source of computed sizes."""

ALIGNMENT_TOKENS = 512
"""Lengths of the non-causal partition are multiples of this: our choice, the paper names none."""

GB = 10**9


@dataclass(frozen=True, kw_only=True)
class Piece:
    """One subsequence on its GPU: tokens, bytes, and seconds of copy and forward of one layer."""

    weights: str
    count: int
    index: int
    start: int
    tokens: int

    @property
    def size_bytes(self) -> int:
        """Activation bytes by the paper's convention."""
        return BYTES_PER_HIDDEN * MODELS[MODEL].hidden * self.tokens

    @property
    def copy_seconds(self) -> float:
        """To the host, at the profile's rate."""
        return self.size_bytes / testbed().d2h_bytes_per_second

    @property
    def forward_seconds(self) -> float:
        """One layer forward, with causal attention."""
        model = MODELS[MODEL]
        seconds = block_seconds(model, testbed(), start=self.start, tokens=self.tokens, shards=1)
        return seconds.forward

    @property
    def settings(self) -> str:
        """The partition in words."""
        return f"llama-65B, {LENGTH}, one layer a GPU, N {self.count}, {self.weights}"


def pieces(weights: str, count: int, alignment: int = ALIGNMENT_TOKENS) -> list[Piece]:
    """The subsequences of one partition. weights: one of WEIGHTS."""
    model, tokens = MODELS[MODEL], parse_tokens(LENGTH)
    lengths = (
        flops_balanced_cut(model, tokens, count)
        if weights == CAUSAL
        else non_causal_cut(model, tokens, count, alignment)
    )
    starts = itertools.accumulate(lengths[:-1], initial=0)
    return [
        Piece(weights=weights, count=count, index=index, start=start, tokens=length)
        for index, (start, length) in enumerate(zip(starts, lengths, strict=True))
    ]


def non_causal_cut(model: Model, tokens: int, count: int, alignment: int) -> tuple[int, ...]:
    """N lengths of equal FLOPs, where a prefix of x tokens costs 24 h^2 x + 4 h x^2 a layer.

    Lengths are multiples of `alignment` tokens.
    """
    linear, square = 24 * model.hidden**2, 4 * model.hidden
    total = linear * tokens + square * tokens**2

    def position(share: float) -> int:
        root = math.sqrt(linear**2 + 4 * square * share * total)
        return round((root - linear) / (2 * square) / alignment) * alignment

    ends = [*(position(index / count) for index in range(count)), tokens]
    return tuple(end - start for start, end in itertools.pairwise(ends))


def all_pieces() -> Iterator[Piece]:
    """Every subsequence of both weighings and both N."""
    for weights in WEIGHTS:
        for count in COUNTS:
            yield from pieces(weights, count)


def threshold_bytes(count: int) -> float:
    """Bytes that hide under one subsequence: host link times a layer's forward over N."""
    (whole,) = pieces(CAUSAL, 1)
    return testbed().d2h_bytes_per_second * whole.forward_seconds / count


def papers(count: int) -> dict[str, float]:
    """The paper's numbers of fig. 5 for one N. Raises OSError."""
    rows: list[dict[str, float]] = reported.numbers("fig5_llama65b_128k")
    return next(row for row in rows if row["n"] == count)
