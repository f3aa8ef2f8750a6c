"""How layers are split over stages and a sequence into subsequences: the numbers that are tried."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from sppo.config.hardware import Profile
from sppo.config.workload import Workload
from sppo.planner.layouts.partition import (
    check_cut,
    equal_cut,
    flops_balanced_cut,
    time_balanced_cut,
)

CANDIDATES = (1, 2, 3, 4, 6, 8, 10, 12, 14, 16, 20, 24, 28, 32, 40, 48, 64, 80, 96, 128, 160, 192)
"""Numbers of subsequences that are tried."""

GROUP_STAGES = 4
"""Subsequences of an interleaved group, per stage: slack for the other stages against the memory
of the messages that wait."""

ALIGNMENT_TOKENS = 16
"""Lengths are multiples of this, times SP, in sequences of 1,024 tokens and more."""

CUTS = ("flops", "equal", "time")


def split_layers(layers: int, stages: int) -> tuple[tuple[int, int], ...]:
    """Consecutive layer ranges; the first stages take the remainder, the last carries the head."""
    if stages > layers:
        raise ValueError(
            f"{layers} layers cannot fill {stages} pipeline stages: use at most {layers} ranks"
        )
    ranges = []
    start = 0
    for stage in range(stages):
        count = layers // stages + (1 if stage < layers % stages else 0)
        ranges.append((start, start + count))
        start += count
    return tuple(ranges)


def interleavings(layers: int, stages: int, wanted: int | None) -> tuple[int, ...]:
    """Numbers of parts per stage worth a try: as long as every part has a layer."""
    if wanted is not None:
        if wanted < 1 or stages * wanted > layers:
            raise ValueError(
                f"{layers} layers cannot form {stages} x {wanted} parts: take virtual_stages "
                f"between 1 and {max(1, layers // stages)}"
            )
        return (wanted,)
    if stages == 1:
        return (1,)
    return tuple(v for v in (1, 2, 4, 8) if layers % (stages * v) == 0) or (1,)


def cuts(
    workload: Workload,
    profile: Profile,
    shards: int,
    subsequences: int | None,
    kind: str,
    longest_tokens: int | None,
) -> Iterator[tuple[int, ...]]:
    """The cuts to try: every N of CANDIDATES, or the asked one, and capped where that shortens.

    A cap on the first lengths costs no bubble and saves memory; it makes more of them.
    Raises ValueError if the asked N is more than the tokens allow.
    """
    tokens = workload.sequence_tokens
    alignment = ALIGNMENT_TOKENS * shards if tokens >= 1024 else shards
    counts: Sequence[int] = tuple(n for n in CANDIDATES if n * alignment <= tokens)
    if subsequences is not None:
        check_cut(tokens, subsequences, shards)
        counts = (subsequences,)
        alignment = min(alignment, tokens // subsequences // shards * shards)
    for count in counts:
        plain = _cut(workload, profile, shards, count, kind, alignment, longest_tokens)
        yield plain
        cap = 2 * -(-tokens // count)
        if longest_tokens is None and subsequences is None and kind == "flops" and plain[0] > cap:
            yield _cut(workload, profile, shards, count, kind, alignment, cap)


def _cut(
    workload: Workload,
    profile: Profile,
    shards: int,
    count: int,
    kind: str,
    alignment: int,
    longest_tokens: int | None,
) -> tuple[int, ...]:
    model, tokens = workload.model, workload.sequence_tokens
    if kind == "equal":
        return equal_cut(tokens, count, alignment=alignment)
    if kind == "time":
        return time_balanced_cut(model, profile, tokens, count, alignment=alignment, shards=shards)
    return flops_balanced_cut(
        model, tokens, count, alignment=alignment, unit=shards, longest=longest_tokens
    )


def even_group(subsequences: int, largest: int) -> int:
    """Group size for groups of nearly equal size, none larger than `largest`."""
    groups = -(-subsequences // largest)
    return -(-subsequences // groups)
