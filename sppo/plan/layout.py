"""How ranks share a model and a sequence: degrees, layers of a part, receives ahead."""

from __future__ import annotations

from typing import NamedTuple


class Degrees(NamedTuple):
    """Ranks that share a stage, stages of a pipeline, pipelines with sequences of their own."""

    shards: int
    stages: int
    replicas: int

    def __str__(self) -> str:
        return degrees_words(*self)


def degrees_words(sequence_parallel: int, pipeline_parallel: int, data_parallel: int) -> str:
    """ "SP 8 x PP 4", "SP 2 x PP 2 x DP 2"."""
    words = f"SP {sequence_parallel} x PP {pipeline_parallel}"
    return words if data_parallel == 1 else f"{words} x DP {data_parallel}"


def receive_ahead(
    pipeline_parallel: int,
    virtual_stages: int,
    group_subsequences: int,
    head_alone: bool,
    *,
    lends: bool,
) -> int:
    """Computes by which a receive is posted early: a group's messages wait for their turn.

    Those for a head on its own wait while the next group passes the first part; those between lent
    parts while all other subsequences pass the part before.
    """
    least = max(1, pipeline_parallel - 1) if lends else 1
    if virtual_stages == 1:
        return least
    if head_alone:
        return max(least, group_subsequences)
    return max(least, group_subsequences - pipeline_parallel + 1)


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
