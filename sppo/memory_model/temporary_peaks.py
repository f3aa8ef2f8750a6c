"""The moments at which a forward or backward may hold the most, beside what is kept. No torch.

At each there is what its operations make (`temporaries.py`), and less of the kept units: those that
a forward has not made yet, those that a backward has used up. The largest is what a compute takes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import chain

from sppo.memory_model.temporaries import (
    AFTER,
    BEFORE,
    PartKind,
    backward_walk,
    first_reads,
    forward_walk,
)
from sppo.plan.blocks import block_of
from sppo.plan.blocks.temporaries import StepPeak, TemporaryPeak
from sppo.plan.saved_tensors import LOSS_TILE_TOKENS


@lru_cache(maxsize=4096)
def temporary_peaks(
    kind: PartKind, forward: bool, dropped: tuple[str, ...]
) -> tuple[TemporaryPeak, ...]:
    """The moments of a forward or backward, less what it holds less of the kept units then.

    Units in `dropped` are made again. Without those that are never the largest.
    """
    names = frozenset(dropped)
    held = _held_forward if forward else _held_backward
    exchange_step = block_of(kind.model).mixer_backward_step
    whole = []
    for at in _walk(kind, forward, names):
        more = held(kind, names, at)
        exchanging = not forward and at.step >= exchange_step
        whole.append(at.peak._replace(per_token=at.peak.per_token + more, exchanging=exchanging))
    whole = list(dict.fromkeys(whole))
    return tuple(one for one in whole if not any(_covers(other, one) for other in whole))


@lru_cache(maxsize=256)
def linear_temporary_peaks(
    kind: PartKind, forward: bool
) -> tuple[tuple[TemporaryPeak, dict[str, int]], ...]:
    """Moments with everything kept, and what each unit adds per token where it is made again.

    Any of those of the lean level, each for itself. A norm's output that is there early, because a
    product of it is made again, is added by that product.
    """
    none: frozenset[str] = frozenset()
    block = block_of(kind.model)
    cheap, lean = (
        frozenset(names).intersection(kind.saved_tensor_bytes)
        for names in (block.recompute_cheap, block.recompute_lean)
    )
    held = _held_forward if forward else _held_backward
    walks = (_walk(kind, forward, names) for names in (cheap, lean))
    found = []
    for at in dict.fromkeys(chain.from_iterable(walks)):
        base = at.peak.per_token - at.recomputed_bytes
        whole = at.peak._replace(per_token=base + held(kind, none, at))
        recomputed = dict.fromkeys(lean, 0)
        for name in lean:
            all_early, early = (
                held(kind, lean, at, reads) - held(kind, lean - {name}, at, reads)
                for reads in (lean, cheap)
            )
            recomputed[name] += early if name in cheap else all_early
            if name in block.early_readers:
                recomputed[block.early_readers[name]] += all_early - early
        if at.recomputed:
            recomputed[at.recomputed] += at.recomputed_bytes
        found.append((whole, recomputed))
    return tuple(found)


def _walk(kind: PartKind, forward: bool, dropped: frozenset[str]) -> Iterator[StepPeak]:
    """A compute's moments, with what its last sum over shards may still hold."""
    for at in forward_walk(kind) if forward else backward_walk(kind, dropped):
        peak = at.peak._replace(per_token=at.peak.per_token + kind.late_bytes)
        yield at._replace(peak=peak)


def _covers(other: TemporaryPeak, one: TemporaryPeak) -> bool:
    """Whether another moment is never the smaller one."""
    no_smaller = all(a >= b for a, b in zip(other[:4], one[:4], strict=True))
    as_often = other.later <= one.later and other.exchanging >= one.exchanging
    return other != one and no_smaller and as_often


def largest_bytes(
    of: Sequence[TemporaryPeak],
    shards: int,
    *,
    start: int,
    tokens: int,
    keys: int,
    exchange_bytes: int = 0,
) -> int | None:
    """Of moments, for `tokens` tokens from position `start` on; None if all come later.

    keys: of the prefix, in one call of attention.
    """
    tile = min(tokens, LOSS_TILE_TOKENS)
    sizes = [
        -(-(one.per_token * tokens + one.per_key * keys + one.per_tile * tile) // shards)
        + one.fixed
        + (exchange_bytes if one.exchanging else 0)
        for one in of
        if start or not one.later
    ]
    return max(sizes, default=None)


def _held_forward(
    kind: PartKind, dropped: frozenset[str], at: StepPeak, firsts: frozenset[str] | None = None
) -> int:
    """Units that are not kept but there, less those that are kept but not made yet."""
    if at.step == BEFORE:
        return -_kept_bytes(kind, dropped)
    if at.step == AFTER:
        return 0
    held = -kind.head_bytes
    for name, (first, last) in block_of(kind.model).forward_spans.items():
        size = kind.saved_tensor_bytes.get(name, 0)
        if name not in dropped and at.step < first:
            held -= size
        if name in dropped and first <= at.step <= last:
            held += size
    return held


def _held_backward(
    kind: PartKind, dropped: frozenset[str], at: StepPeak, firsts: frozenset[str] | None = None
) -> int:
    """Units that were made again and are there, less those that are kept but used up.

    They are made when they are first read, where those in `firsts` are made again.
    """
    if at.step == BEFORE:
        return 0
    if at.step == AFTER:
        return -_kept_bytes(kind, dropped)
    held = -kind.head_bytes
    reads = first_reads(kind.model, dropped if firsts is None else firsts)
    order = tuple(kind.saved_tensor_bytes)
    spans = block_of(kind.model).backward_spans
    made = order[: order.index(at.recomputed) + 1] if at.recomputed else order
    for name, size in kind.saved_tensor_bytes.items():
        last = spans[name].last
        first = reads[name]
        if name not in dropped:
            held -= size if at.step > last else 0
        elif first < at.step <= last or (first == at.step and name in made):
            held += size
    return held


def _kept_bytes(kind: PartKind, dropped: frozenset[str]) -> int:
    """Per token of all shards, of the whole part."""
    kept = sum(size for name, size in kind.saved_tensor_bytes.items() if name not in dropped)
    return kind.layers * kept + kind.head_bytes
