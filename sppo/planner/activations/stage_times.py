"""Times of one stage's computes and copies, and of hosted K and V. No torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from sppo.config.hardware import Hardware
from sppo.config.models import Model
from sppo.cost_model.hosted_kv import KvSpan, kv_copy_seconds
from sppo.plan.layout import Layout

NsRow = Sequence[int]
"""Nanoseconds by subsequence."""


class ChunkTimes(NamedTuple):
    """One model chunk of a stage: its computes with recomputation, and its copies, in ns."""

    forward: NsRow
    backward: NsRow
    d2h: NsRow
    h2d: NsRow


class StageTimes(NamedTuple):
    """The own chunks of a stage, and the ns to zero dK and dV of a sequence in all its chunks.

    With MSP these are also the chunks that the stage helps with.
    """

    chunks: Sequence[ChunkTimes]
    clear: int

    def busy_ns(self, *, overlapped: bool) -> int:
        """Time of the compute lane in one sequence; copies take it where they do not overlap."""
        rows = [chunk if not overlapped else chunk[:2] for chunk in self.chunks]
        return self.clear + sum(sum(times) for row in rows for times in row)


def hosted_kv_seconds(layout: Layout, model: Model, profile: Hardware) -> list[tuple[float, float]]:
    """By subsequence: what copies of hosted K and V add to a block's forward and backward.

    Nothing where K and V are on the device.
    """
    if not layout.kv_block_tokens:
        return [(0.0, 0.0)] * layout.subsequences
    last, shards = layout.subsequences - 1, layout.sequence_parallel
    rows = zip(layout.starts_tokens, layout.lengths_tokens, strict=True)
    spans = [
        KvSpan(start=start, tokens=tokens, adds_first=index == last)
        for index, (start, tokens) in enumerate(rows)
    ]
    return [kv_copy_seconds(model, profile, span, shards=shards) for span in spans]
