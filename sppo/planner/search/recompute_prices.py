"""Recomputation of saved tensors in ns per byte, at the best and worst rates of some lengths."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from dataclasses import dataclass
from functools import lru_cache, partial

from sppo.config.hardware import Hardware
from sppo.config.models import Model
from sppo.cost_model.times import recompute_ns
from sppo.plan.blocks import block_of


@dataclass(frozen=True, kw_only=True)
class RecomputePrices:
    """Of one block: `tensors` are (ns per byte at the best rate, bytes per token), by tensor.

    saved, offloadable: bytes per token of all saved tensors, and of those that may be offloaded.
    most_ns: per token, of recomputing all `tensors` at the worst rate. Bytes are of one rank.
    """

    tensors: tuple[tuple[float, float], ...]
    saved: float
    offloadable: float
    most_ns: float


def recompute_prices(
    model: Model,
    profile: Hardware,
    element_bytes: int,
    *,
    shards: int,
    ulysses: int,
    context: int,
    shortest: int,
    longest: int,
) -> RecomputePrices:
    """Prices for subsequences of `shortest` to `longest` tokens. element_bytes: of a saved one."""
    known = [row.tokens for row in profile.rates]
    low = max(0, bisect_right(known, shortest // shards) - 1)
    high = min(len(known) - 1, bisect_left(known, -(-longest // shards)))
    return _prices(model, profile, element_bytes, (shards, ulysses, context), low, max(low, high))


@lru_cache(maxsize=1024)
def _prices(
    model: Model,
    profile: Hardware,
    element_bytes: int,
    ranks: tuple[int, int, int],
    low: int,
    high: int,
) -> RecomputePrices:
    """Rates are linear between the rows of a profile, so the extremes lie at its rows."""
    block = block_of(model)
    shards, ulysses, context = ranks
    recompute = partial(
        recompute_ns, model, profile, shards=shards, ulysses=ulysses, context=context
    )
    lengths = [row.tokens * shards for row in profile.rates[low : high + 1]]
    tensors, most_ns = [], 0.0
    for name in block.recompute_lean:
        if name not in block.saved_tensors_by_name:
            continue
        per_token = [recompute((name,), start=0, tokens=tokens) / tokens for tokens in lengths]
        width = block.saved_tensors_by_name[name].bytes(1, element_bytes) / shards
        tensors.append((min(per_token) / width, width))
        most_ns += max(per_token)
    known = block.saved_tensors_by_name
    offloadable = [known[name] for name in block.offload_order if name in known]
    return RecomputePrices(
        tensors=tuple(tensors),
        saved=sum(tensor.bytes(1, element_bytes) for tensor in block.saved_tensors) / shards,
        offloadable=sum(tensor.bytes(1, element_bytes) for tensor in offloadable) / shards,
        most_ns=most_ns,
    )
