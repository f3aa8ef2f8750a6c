"""Cutting a sequence into subsequences: equal lengths, FLOPs (the paper, sec. 5.2), or times."""

from __future__ import annotations

import itertools
import math
from bisect import bisect_right
from functools import lru_cache, partial

from sppo.config.hardware import Hardware
from sppo.config.models import Model
from sppo.cost_model.flops import head_flops_per_token
from sppo.cost_model.times import block_seconds
from sppo.plan.blocks import block_of


def _aligned(boundaries: list[int], tokens: int, alignment: int) -> tuple[int, ...]:
    """Lengths between boundaries rounded to the alignment, each at least one alignment long."""
    count = len(boundaries) - 1
    rounded = [0]
    for index in range(1, count):
        nearest = round(boundaries[index] / alignment) * alignment
        least = rounded[-1] + alignment
        most = (tokens // alignment - (count - index)) * alignment
        rounded.append(min(max(nearest, least), most))
    rounded.append(tokens)
    return tuple(end - start for start, end in itertools.pairwise(rounded))


def check_cut(tokens: int, subsequences: int, alignment: int) -> None:
    """Raise ValueError, with the cure, if `tokens` cannot be cut that way."""
    if subsequences < 1 or alignment < 1:
        raise ValueError("a cut needs at least one subsequence and an alignment of at least 1")
    if subsequences * alignment > tokens:
        raise ValueError(
            f"cannot cut {tokens} tokens into {subsequences} subsequences of at least {alignment}: "
            f"take N of at most {max(1, tokens // alignment)}"
        )


def equal_cut(tokens: int, subsequences: int, *, alignment: int = 1) -> tuple[int, ...]:
    """N lengths that differ by at most one alignment."""
    check_cut(tokens, subsequences, alignment)
    boundaries = [index * tokens // subsequences for index in range(subsequences + 1)]
    return _aligned(boundaries, tokens, alignment)


def prefix_flops(model: Model, tokens: int) -> int:
    """Forward FLOPs of the first `tokens` tokens through the whole model (causal)."""
    block = block_of(model)
    dense = model.layers * block.dense_flops_per_token + head_flops_per_token(model)
    return dense * tokens + model.layers * block.mixer_flops(0, tokens)


@lru_cache(maxsize=1024)
def flops_balanced_cut(
    model: Model,
    tokens: int,
    subsequences: int,
    *,
    alignment: int = 1,
    unit: int = 1,
    longest: int | None = None,
) -> tuple[int, ...]:
    """N lengths of equal causal FLOPs: early ones long, late ones short.

    Lengths are multiples of `unit`, which divides `alignment` and `tokens`. `longest` caps them:
    the capped tokens become further subsequences of that length, so that the result may have more
    than N entries; the largest cost, and with it the makespan's bubble term, does not grow.
    """
    lengths = slice_cut(model, 0, tokens, subsequences, alignment=alignment)
    if longest is None:
        return lengths
    capped: list[int] = []
    for length in lengths:
        pieces = -(-length // max(longest, alignment))
        step = min(alignment, length // pieces // unit * unit)
        capped.extend(equal_cut(length, pieces, alignment=step))
    return tuple(capped)


@lru_cache(maxsize=16_384)
def slice_cut(
    model: Model, start: int, tokens: int, slices: int, *, alignment: int = 1
) -> tuple[int, ...]:
    """A subsequence at position `start` in slices of equal causal FLOPs: all end together."""
    check_cut(tokens, slices, alignment)
    square = model.layers * block_of(model).mixer_flops_per_pair // 2
    linear = prefix_flops(model, 1) - square
    first, last = prefix_flops(model, start), prefix_flops(model, start + tokens)
    shares = [first + (last - first) * index // slices for index in range(slices)]
    boundaries = [*(_position_of(share, square, linear) - start for share in shares), tokens]
    return _aligned(boundaries, tokens, alignment)


def _position_of(flops: int, square: int, linear: int) -> int:
    """The least position p with `square` p^2 + `linear` p of at least `flops`.

    These are the coefficients of `prefix_flops`.
    """
    root = math.isqrt(linear * linear + 4 * square * flops)
    position = max(0, (root - linear) // (2 * square))
    while (square * position + linear) * position < flops:  # the root was rounded down
        position += 1
    return position


def time_balanced_cut(
    model: Model,
    profile: Hardware,
    tokens: int,
    subsequences: int,
    *,
    alignment: int = 1,
    shards: int = 1,
    ulysses: int = 1,
    context: int = 1,
) -> tuple[int, ...]:
    """N lengths of equal time on a profile, forward and backward of one block.

    Unlike FLOPs, times include the lower rates of short subsequences.
    """
    check_cut(tokens, subsequences, alignment)
    if subsequences == 1:
        return (tokens,)
    timed = partial(block_seconds, model, profile, shards=shards, ulysses=ulysses, context=context)

    def compute_ns(start: int, length: int) -> int:
        block = timed(start=start, tokens=length)
        return round(block.forward * 1e9) + round(block.backward * 1e9)

    def boundaries(limit: int) -> list[int]:
        """Starts, greedily: every subsequence but the last is as long as `limit` allows."""
        starts = [0]
        for left in range(subsequences - 1, 0, -1):
            start = starts[-1]
            most = tokens - start - left * alignment
            longer = bisect_right(range(1, most + 1), limit, key=partial(compute_ns, start))
            starts.append(start + max(alignment, longer))
        return starts

    low, high = 0, compute_ns(0, tokens)
    while high - low > max(1, high // 4096):
        limit = (low + high) // 2
        last = boundaries(limit)[-1]
        if compute_ns(last, tokens - last) > limit:
            low = limit
        else:
            high = limit
    return _aligned([*boundaries(high), tokens], tokens, alignment)


ALIGNMENT_TOKENS = 16
"""Lengths are multiples of this, times SP, in sequences of 1,024 tokens and more."""


def even_group(subsequences: int, largest: int) -> int:
    """Group size for groups of nearly equal size, none larger than `largest`."""
    groups = -(-subsequences // largest)
    return -(-subsequences // groups)
