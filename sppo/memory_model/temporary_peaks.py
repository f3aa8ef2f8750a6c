"""The temporary peaks of a forward or backward, less the saved tensors absent then. No torch.

At each there are the temporaries of its operations (`temporaries.py`). Of the saved tensors, those
are absent that a forward has not made yet, or that a backward has used up.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import chain

from sppo.memory_model import temporaries
from sppo.memory_model.temporaries import AFTER, BEFORE, PartKind
from sppo.plan.blocks import block_of
from sppo.plan.blocks.temporaries import StepPeak, TemporaryPeak
from sppo.plan.saved_tensors import LOSS_TILE_TOKENS


@lru_cache(maxsize=4096)
def temporary_peaks(
    kind: PartKind, forward: bool, dropped: tuple[str, ...]
) -> tuple[TemporaryPeak, ...]:
    """Peaks of a forward or backward that recomputes `dropped`, without those never the largest."""
    names = frozenset(dropped)
    exchange_step = block_of(kind.model).mixer_backward_step
    peaks = []
    for at in _walk(kind, forward, names):
        per_token = at.peak.per_token + _held(kind, forward, names, at)
        exchanging = not forward and at.step >= exchange_step
        peaks.append(at.peak._replace(per_token=per_token, exchanging=exchanging))
    peaks = list(dict.fromkeys(peaks))
    return tuple(peak for peak in peaks if not any(_covers(larger, peak) for larger in peaks))


@lru_cache(maxsize=256)
def linear_temporary_peaks(
    kind: PartKind, forward: bool
) -> tuple[tuple[TemporaryPeak, dict[str, int]], ...]:
    """Peaks with everything saved, and the bytes per token that recomputing each tensor adds.

    Only tensors of the lean level, each for itself. A norm's output that is recomputed early for a
    product is charged to that product.
    """
    none: frozenset[str] = frozenset()
    block = block_of(kind.model)
    cheap, lean = (
        frozenset(names).intersection(kind.saved_tensor_bytes)
        for names in (block.recompute_cheap, block.recompute_lean)
    )
    walks = (_walk(kind, forward, names) for names in (cheap, lean))
    peaks = []
    for at in dict.fromkeys(chain.from_iterable(walks)):
        base = at.peak.per_token - at.recomputed_bytes
        peak = at.peak._replace(per_token=base + _held(kind, forward, none, at))
        added = dict.fromkeys(lean, 0)
        for name in lean:
            all_early, early = (
                _held(kind, forward, lean, at, reads)
                - _held(kind, forward, lean - {name}, at, reads)
                for reads in (lean, cheap)
            )
            added[name] += early if name in cheap else all_early
            if name in block.early_readers:
                added[block.early_readers[name]] += all_early - early
        if at.recomputed:
            added[at.recomputed] += at.recomputed_bytes
        peaks.append((peak, added))
    return tuple(peaks)


def _walk(kind: PartKind, forward: bool, dropped: frozenset[str]) -> Iterator[StepPeak]:
    """The peaks of a compute, with the tensors that its last sum over shards may still hold."""
    walk = temporaries.forward_walk(kind) if forward else temporaries.backward_walk(kind, dropped)
    for at in walk:
        peak = at.peak._replace(per_token=at.peak.per_token + kind.late_bytes)
        yield at._replace(peak=peak)


def _covers(larger: TemporaryPeak, peak: TemporaryPeak) -> bool:
    """Whether another peak is never the smaller one."""
    no_smaller = all(a >= b for a, b in zip(larger[:4], peak[:4], strict=True))
    as_often = larger.later <= peak.later and larger.exchanging >= peak.exchanging
    return larger != peak and no_smaller and as_often


def largest_bytes(
    peaks: Sequence[TemporaryPeak],
    shards: int,
    *,
    start: int,
    tokens: int,
    keys: int,
    exchange_bytes: int = 0,
) -> int | None:
    """Bytes of the largest peak for `tokens` tokens from position `start` on; None without any.

    keys: of the prefix, in one call of attention.
    """
    tile = min(tokens, LOSS_TILE_TOKENS)
    sizes = [
        -(-(peak.per_token * tokens + peak.per_key * keys + peak.per_tile * tile) // shards)
        + peak.fixed
        + (exchange_bytes if peak.exchanging else 0)
        for peak in peaks
        if start or not peak.later
    ]
    return max(sizes, default=None)


def _held(
    kind: PartKind,
    forward: bool,
    dropped: frozenset[str],
    at: StepPeak,
    early: frozenset[str] | None = None,
) -> int:
    """Bytes per token of dropped tensors that are there, less saved ones not made or used up.

    A dropped tensor is there from the step that makes it: in a backward, the first that reads it,
    where those in `early` are recomputed.
    """
    if at.step in (BEFORE, AFTER):
        return -_saved_bytes(kind, dropped) if forward == (at.step == BEFORE) else 0
    block = block_of(kind.model)
    if forward:
        spans = block.forward_spans
        firsts = {name: span.first for name, span in spans.items()}
    else:
        spans = block.backward_spans
        firsts = temporaries.first_reads(kind.model, dropped if early is None else early)
    order = tuple(kind.saved_tensor_bytes)
    made = order[: order.index(at.recomputed) + 1] if at.recomputed else order
    held = -kind.head_bytes
    for name in order:
        if name not in spans:
            continue
        size, first, last = kind.saved_tensor_bytes[name], firsts[name], spans[name].last
        if name not in dropped:
            absent = at.step < first if forward else at.step > last
            held -= size if absent else 0
        elif first < at.step <= last or (first == at.step and name in made):
            held += size
    return held


def _saved_bytes(kind: PartKind, dropped: frozenset[str]) -> int:
    """Per token of all shards, of the whole chunk."""
    block = sum(size for name, size in kind.saved_tensor_bytes.items() if name not in dropped)
    return kind.layers * block + kind.head_bytes
