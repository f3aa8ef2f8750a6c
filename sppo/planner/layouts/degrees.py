"""The degrees of parallelism that a workload allows: SP x PP x DP fills its ranks. No torch."""

from __future__ import annotations

import math
from collections.abc import Iterator

from sppo.config.sizes import divisors
from sppo.config.workload import Workload
from sppo.plan.layout import Degrees
from sppo.plan.weights import shard_obstacle
from sppo.planner.options import SolverOptions


def obstacle(workload: Workload, degrees: Degrees) -> str | None:
    """Why these degrees cannot run, whatever the number of ranks, or None."""
    model, tokens, sequences = workload.model, workload.sequence_tokens, workload.sequences_per_step
    if degrees.stages > model.layers:
        return f"PP {degrees.stages} is more than {model.layers} layers"
    if sequences % degrees.replicas:
        return f"{sequences} sequences a step do not divide over DP {degrees.replicas}"
    if tokens % degrees.shards:
        return f"{tokens:,} tokens do not divide over SP {degrees.shards}"
    return shard_obstacle(model, degrees.shards)


def _products(ranks: int) -> Iterator[Degrees]:
    for shards in divisors(ranks):
        for stages in divisors(ranks // shards):
            yield Degrees(shards, stages, ranks // shards // stages)


def _possible(workload: Workload, ranks: int) -> list[Degrees]:
    """The degrees that fill so many ranks and can run."""
    return [degrees for degrees in _products(ranks) if obstacle(workload, degrees) is None]


def ulysses_degrees(options: SolverOptions, shards: int) -> tuple[int, ...]:
    """The Ulysses degrees of a stage of `shards` ranks that the options leave.

    SP divides heads, KV heads, MLP columns and vocabulary. So every divisor of SP is possible.
    """
    wanted = options.ulysses_parallel
    if wanted is not None:
        return (wanted,) if wanted > 0 and shards % wanted == 0 else ()
    if options.solver == "paper" or options.stage_sharding == "tensor":
        return (1,)
    least = 2 if options.stage_sharding == "ulysses" else 1
    return tuple(degree for degree in divisors(shards) if degree >= least)


def every_degree(workload: Workload, options: SolverOptions) -> list[Degrees]:
    """All (SP, PP, DP) that fill the ranks and agree with the options, else the workload's.

    Raises ValueError with the obstacle and the nearest degrees that work.
    """
    ranks = workload.cluster.ranks
    asked = (options.sequence_parallel, options.pipeline_parallel, options.data_parallel)
    if asked == (None, None, None):
        asked = (workload.sequence_parallel, workload.pipeline_parallel, None)
    wanted = [
        degrees
        for degrees in _products(ranks)
        if all(want in (None, have) for want, have in zip(asked, degrees, strict=True))
    ]
    possible = [degrees for degrees in wanted if obstacle(workload, degrees) is None]
    divided = [degrees for degrees in possible if ulysses_degrees(options, degrees.shards)]
    if divided:
        return divided
    if possible:
        wanted_degree = options.ulysses_parallel
        if wanted_degree is None:
            raise ValueError(
                f"all-to-alls need ranks that share a stage, but SP is {possible[-1].shards}: take "
                "--sp 2 or more, or --stage-sharding tensor"
            )
        raise ValueError(
            f"Ulysses {wanted_degree} does not divide SP {possible[-1].shards}: take a "
            "divisor of SP, or leave the division of a stage to the solver"
        )
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
    if possible := _possible(workload, ranks):
        nearest = min(possible, key=lambda degrees: _distance(degrees, asked))
        return f"the nearest layout that works on {ranks:,} ranks is {nearest}"
    count = next(count for count in range(ranks - 1, 0, -1) if _possible(workload, count))
    degrees = _possible(workload, count)[0]
    return f"{workload.model.name} fills {count:,} of them at most, as {degrees}"


def _distance(degrees: Degrees, asked: tuple[int | None, int | None, int | None]) -> float:
    """Distance from the asked degrees, in factors; a change of SP weighs most."""
    return sum(
        weight * abs(math.log(have / want))
        for weight, have, want in zip((1.2, 1.1, 1.0), degrees, asked, strict=True)
        if want is not None
    )
