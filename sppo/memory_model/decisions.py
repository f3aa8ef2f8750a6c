"""The decisions of a stage's saved tensors: kept, offloaded or recomputed. No torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Decision:
    """Decisions of one subsequence in one model chunk: saved tensors to offload and to recompute.

    offload: (saved tensor, n): offloaded in the first n layers. recompute: names, in all layers.
    """

    offload: tuple[tuple[str, int], ...] = ()
    recompute: tuple[str, ...] = ()


KEEP = Decision()

StageDecisions = Sequence[Sequence[Decision]]
"""By [chunk][subsequence]."""
