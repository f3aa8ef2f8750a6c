"""The degrees of parallelism that a workload allows: SP x PP x DP fills its ranks. No torch."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

from sppo.config.sizes import divisors
from sppo.config.workload import Workload
from sppo.plan.layout import Degrees
from sppo.plan.weights import shard_obstacle
from sppo.planner.layouts.partition import ALIGNMENT_TOKENS
from sppo.planner.options import SolverOptions


def obstacle(workload: Workload, options: SolverOptions, degrees: Degrees) -> str | None:
    """Why these degrees cannot run, whatever the number of ranks, or None."""
    model, tokens, sequences = workload.model, workload.sequence_tokens, workload.sequences_per_step
    if degrees.stages > model.layers:
        return f"PP {degrees.stages} is more than {model.layers} layers"
    if sequences % degrees.replicas:
        return f"{sequences} sequences a step do not divide over DP {degrees.replicas}"
    if tokens % degrees.shards:
        return f"{tokens:,} tokens do not divide over SP {degrees.shards}"
    if tokens >= 1024 and tokens < ALIGNMENT_TOKENS * degrees.shards:
        return f"{tokens:,} tokens are too few for SP {degrees.shards}, {ALIGNMENT_TOKENS} a rank"
    if context_degrees(workload, options, degrees.shards):
        return None
    context = 1 if options.context_parallel is None else options.context_parallel
    if context < 1 or degrees.shards % context:
        return f"CP {context} does not divide SP {degrees.shards}"
    return shard_obstacle(model, degrees.shards // context)


def _products(ranks: int) -> Iterator[Degrees]:
    for shards in divisors(ranks):
        for stages in divisors(ranks // shards):
            yield Degrees(shards, stages, ranks // shards // stages)


def _possible(workload: Workload, options: SolverOptions, ranks: int) -> list[Degrees]:
    """The degrees that fill so many ranks and can run."""
    return [each for each in _products(ranks) if obstacle(workload, options, each) is None]


def context_degrees(workload: Workload, options: SolverOptions, shards: int) -> tuple[int, ...]:
    """The context degrees of a stage of `shards` ranks that the options leave.

    All other ranks divide heads, KV heads, MLP columns and vocabulary. Where `shards` does not
    divide these, as few ranks as possible have the same heads: they move more bytes than others.
    """

    def leaves_heads(degree: int) -> bool:
        return shard_obstacle(workload.model, shards // degree) is None

    wanted = options.context_parallel
    if wanted is not None:
        divides = wanted > 0 and shards % wanted == 0
        return (wanted,) if divides and leaves_heads(wanted) else ()
    if leaves_heads(1):
        return (1,)
    only_tensor = options.solver == "paper" or options.stage_sharding == "tensor"
    if only_tensor or workload.sequence_tokens < ALIGNMENT_TOKENS * shards:
        return ()
    return (next(filter(leaves_heads, divisors(shards))),)


def ulysses_degrees(options: SolverOptions, shards: int) -> tuple[int, ...]:
    """The Ulysses degrees of `shards` ranks that divide the heads, as the options leave them.

    The ranks divide heads, KV heads, MLP columns and vocabulary. So every divisor is possible.
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
    possible = [each for each in wanted if obstacle(workload, options, each) is None]
    divided = [each for each in possible if any(_divisions(workload, options, each.shards))]
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
            f"Ulysses {wanted_degree} does not divide "
            f"{_heads_words(workload, options, possible[-1])}: take a divisor, or leave the "
            "division of a stage to the solver"
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
        reason = f"{wanted[-1]}: {obstacle(workload, options, wanted[-1])}"
    else:
        names = zip(("SP", "PP", "DP"), asked, strict=True)
        words = " x ".join(f"{name} {degree}" for name, degree in names if degree is not None)
        reason = f"{words} does not fill {ranks:,} ranks"
    raise ValueError(f"{reason}; {_cure(workload, options, asked)}")


def _heads_words(workload: Workload, options: SolverOptions, degrees: Degrees) -> str:
    """ "SP 8", or "SP / CP 4"."""
    (context,) = context_degrees(workload, options, degrees.shards)
    if context == 1:
        return f"SP {degrees.shards}"
    return f"SP / CP {degrees.shards // context}"


def _divisions(
    workload: Workload, options: SolverOptions, shards: int
) -> Iterator[tuple[int, int]]:
    """(Ulysses, context) degrees of a stage that the options leave."""
    for context in context_degrees(workload, options, shards):
        for ulysses in ulysses_degrees(options, shards // context):
            yield ulysses, context


def _cure(
    workload: Workload,
    options: SolverOptions,
    asked: tuple[int | None, int | None, int | None],
) -> str:
    """The nearest layout on these ranks, else the most ranks that can be filled.

    An asked context degree above 1 is left out, as it may fit no number of ranks.
    """
    ranks = workload.cluster.ranks
    if options.context_parallel != 1:
        options = replace(options, context_parallel=None)
    if possible := _possible(workload, options, ranks):
        nearest = min(possible, key=lambda degrees: _distance(degrees, asked))
        return f"the nearest layout that works on {ranks:,} ranks is {nearest}"
    counts = range(ranks - 1, 0, -1)
    count = next(count for count in counts if _possible(workload, options, count))
    degrees = _possible(workload, options, count)[0]
    return f"{workload.model.name} fills {count:,} of them at most, as {degrees}"


def _distance(degrees: Degrees, asked: tuple[int | None, int | None, int | None]) -> float:
    """Distance from the asked degrees, in factors; a change of SP weighs most."""
    return sum(
        weight * abs(math.log(have / want))
        for weight, have, want in zip((1.2, 1.1, 1.0), degrees, asked, strict=True)
        if want is not None
    )
