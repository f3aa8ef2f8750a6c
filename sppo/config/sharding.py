"""The share of a stage that one of its ranks has (the paper's SP). No torch.

How each weight is divided is in the description of the block (`sppo/plan/blocks/`).
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Shard:
    """Share `index` of `count` equal ones."""

    index: int = 0
    count: int = 1


WHOLE = Shard()
