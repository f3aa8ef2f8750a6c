"""The degrees of parallelism that a workload allows: SP x PP x DP fills its ranks. No torch."""

from __future__ import annotations

import math
from collections.abc import Iterator

from sppo.config.sizes import divisors
from sppo.config.workload import Workload
from sppo.plan.layout import Degrees
from sppo.plan.weights import shard_obstacle


def obstacle(workload: Workload, found: Degrees) -> str | None:
    """Why these degrees cannot run, whatever the ranks, or None."""
    model, tokens = workload.model, workload.sequence_tokens
    if found.stages > model.layers:
        return f"PP {found.stages} is more than {model.layers} layers"
    if workload.sequences_per_step % found.replicas:
        each = workload.sequences_per_step
        return f"{each} sequences a step do not divide over DP {found.replicas}"
    if tokens % found.shards:
        return f"{tokens:,} tokens do not divide over SP {found.shards}"
    return shard_obstacle(model, found.shards)


def _products(ranks: int) -> Iterator[Degrees]:
    for shards in divisors(ranks):
        for stages in divisors(ranks // shards):
            yield Degrees(shards, stages, ranks // shards // stages)


def every_degree(
    workload: Workload,
    sequence_parallel: int | None,
    pipeline_parallel: int | None,
    data_parallel: int | None,
) -> list[Degrees]:
    """All degrees that fill the ranks, as far as they are not given, here or else by the workload.

    Raises ValueError naming what stands in the way, and the nearest layout that works.
    """
    ranks = workload.cluster.ranks
    asked = (sequence_parallel, pipeline_parallel, data_parallel)
    if asked == (None, None, None):
        asked = (workload.sequence_parallel, workload.pipeline_parallel, None)
    wanted = [
        found
        for found in _products(ranks)
        if all(want in (None, have) for want, have in zip(asked, found, strict=True))
    ]
    fitting = [found for found in wanted if obstacle(workload, found) is None]
    if fitting:
        return fitting
    if asked == (None, None, None):
        model = workload.model
        reason = (
            f"no SP x PP x DP fills {ranks:,} ranks: SP must divide {model.heads} heads, "
            f"{model.kv_heads} KV heads, {model.ffn:,} MLP columns, {model.vocabulary:,} entries "
            f"of the vocabulary and {workload.sequence_tokens:,} tokens, PP is at most "
            f"{model.layers} layers, DP must divide {workload.sequences_per_step} sequences a step"
        )
    elif wanted:
        reason = f"{wanted[-1]}: {obstacle(workload, wanted[-1])}"
    else:
        names = zip(("SP", "PP", "DP"), asked, strict=True)
        words = " x ".join(f"{name} {degree}" for name, degree in names if degree is not None)
        reason = f"{words} does not fill {ranks:,} ranks"
    raise ValueError(f"{reason}; {_cure(workload, asked)}")


def _cure(workload: Workload, asked: tuple[int | None, int | None, int | None]) -> str:
    """The nearest layout on these ranks, else the most ranks that can be filled."""
    ranks = workload.cluster.ranks
    possible = [found for found in _products(ranks) if obstacle(workload, found) is None]
    if possible:
        nearest = min(possible, key=lambda found: _distance(found, asked))
        return f"the nearest layout that works on {ranks:,} ranks is {nearest}"
    fewer = next(
        (
            (count, found)
            for count in range(ranks - 1, 0, -1)
            for found in _products(count)
            if obstacle(workload, found) is None
        ),
        None,
    )
    assert fewer is not None, "one rank always works"
    count, found = fewer
    return f"{workload.model.name} fills {count:,} of them at most, as {found}"


def _distance(found: Degrees, asked: tuple[int | None, int | None, int | None]) -> float:
    """How far from what was asked for, in factors; a change of SP weighs most."""
    return sum(
        weight * abs(math.log(have / want))
        for weight, have, want in zip((1.2, 1.1, 1.0), found, asked, strict=True)
        if want is not None
    )
