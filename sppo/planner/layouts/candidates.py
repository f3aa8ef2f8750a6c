"""The layouts that the solver tries: splits of layers and sequence that the options leave."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import product

from sppo.config.hardware import Hardware
from sppo.config.workload import Workload
from sppo.memory_model.model_state import block_tokens
from sppo.plan.weights import GATHERED_BLOCKS
from sppo.planner.layouts.degrees import context_degrees, every_degree, ulysses_degrees
from sppo.planner.layouts.partition import (
    ALIGNMENT_TOKENS,
    check_cut,
    equal_cut,
    even_group,
    flops_balanced_cut,
    time_balanced_cut,
)
from sppo.planner.layouts.timed_layout import TimedLayout
from sppo.planner.options import SolverOptions

CANDIDATES = (1, 2, 3, 4, 6, 8, 10, 12, 14, 16, 20, 24, 28, 32, 40, 48, 64, 80, 96, 128, 160, 192)
"""Numbers of subsequences that are tried."""

MOST_GATHERED = 32
"""Subsequences that are tried with context parallelism: each gathers its whole prefix anew."""

EXCHANGE_PIECES = 2
"""Pieces of a subsequence around attention: more pieces are shorter kernels, and hide no more."""

GROUP_STAGES = 4
"""Subsequences of an interleaved group, per stage: slack for the other stages against the memory
of the messages that wait."""


CHUNKS = (1, 2, 3, 4, 5, 8)
"""Numbers of model chunks a stage that are tried where they divide the layers."""

UNEVEN_CHUNKS = (1, 2)
"""The same where the stages do not divide the layers."""


def interleavings(layers: int, stages: int, wanted: int | None) -> tuple[int, ...]:
    """Numbers of model chunks a stage to try: every chunk has a layer. Raises ValueError."""
    if wanted is not None:
        if wanted < 1 or stages * wanted > layers:
            raise ValueError(
                f"{layers} layers cannot form {stages} x {wanted} model chunks: take "
                f"virtual_stages between 1 and {max(1, layers // stages)}"
            )
        return (wanted,)
    if stages == 1:
        return (1,)
    if layers % stages:
        return tuple(count for count in UNEVEN_CHUNKS if stages * count <= layers)
    return tuple(count for count in CHUNKS if layers % (stages * count) == 0)


def cuts(
    workload: Workload,
    profile: Hardware,
    shards: int,
    subsequences: int | None,
    kind: str,
    longest_tokens: int | None,
    ulysses: int = 1,
    context: int = 1,
) -> Iterator[tuple[int, ...]]:
    """The cuts to try: every N of CANDIDATES, or the asked one, and capped where that shortens.

    A cap on the first lengths costs no bubble and saves memory, but raises N. Raises ValueError if
    the asked N is more than the tokens allow.
    """
    model, tokens = workload.model, workload.sequence_tokens
    alignment = ALIGNMENT_TOKENS * shards if tokens >= 1024 else shards
    counts: Sequence[int] = tuple(n for n in CANDIDATES if n * alignment <= tokens)
    if context > 1:
        counts = [count for count in counts if count <= MOST_GATHERED]
    if subsequences is not None:
        check_cut(tokens, subsequences, shards)
        counts = (subsequences,)
        alignment = min(alignment, tokens // subsequences // shards * shards)
    for count in counts:
        if kind == "equal":
            yield equal_cut(tokens, count, alignment=alignment)
        elif kind == "time":
            yield time_balanced_cut(
                model,
                profile,
                tokens,
                count,
                alignment=alignment,
                shards=shards,
                ulysses=ulysses,
                context=context,
            )
        else:
            balanced = partial(
                flops_balanced_cut, model, tokens, count, alignment=alignment, unit=shards
            )
            uncapped = balanced(longest=longest_tokens)
            yield uncapped
            cap = 2 * -(-tokens // count)
            if longest_tokens is None and subsequences is None and uncapped[0] > cap:
                yield balanced(longest=cap)


def ulysses_degrees_to_try(
    workload: Workload, options: SolverOptions, shards: int
) -> tuple[int, ...]:
    """The Ulysses degrees of `shards` ranks that divide the heads, to try.

    Beside all-to-alls, TP stays inside a node.
    """
    degrees = ulysses_degrees(options, shards)
    if options.ulysses_parallel is not None:
        return degrees
    node = workload.cluster.ranks_per_node
    return tuple(degree for degree in degrees if degree == 1 or shards // degree <= node)


def divisions_to_try(
    workload: Workload, options: SolverOptions, shards: int
) -> list[tuple[int, int]]:
    """(Ulysses, context) degrees of a stage to try. With several contexts K and V stay resident."""
    contexts = context_degrees(workload, options, shards)
    return [
        (ulysses, context)
        for context in contexts
        if context == 1 or not options.kv_offload
        for ulysses in ulysses_degrees_to_try(workload, options, shards // context)
    ]


def weights_to_try(
    options: SolverOptions, tensor: int, copies: int, layers: int
) -> tuple[bool, ...]:
    """Whether ranks with the same weights shard those of blocks: the choices to try.

    tensor: TP. copies: ranks with the same weights. layers: of a stage. Beside TP a rank has few
    weights. So there the user must ask for pieces. Pieces and the blocks in use are fewer bytes
    than whole weights only where a stage has enough layers.
    """
    if options.weights == "sharded":
        return (True,) if copies > 1 else ()
    leaner = layers / copies + min(GATHERED_BLOCKS, layers) < layers
    wanted = options.weights == "auto" and options.solver != "paper" and not options.msp
    return (False, True) if wanted and leaner and tensor == 1 else (False,)


def every_layout(
    workload: Workload, profile: Hardware, options: SolverOptions
) -> Iterator[TimedLayout]:
    """The layouts that the options leave, with every cut. Raises ValueError if there is none."""
    allowed = every_degree(workload, options)
    count, cap = options.subsequences, options.longest_tokens
    if options.msp:  # a single stage cannot split, but may be all that is allowed
        allowed = [degrees for degrees in allowed if degrees.stages > 1] or allowed
    for shards, stages, replicas in allowed:
        several = workload.sequences_per_step > replicas
        kv_block_tokens = block_tokens(workload, shards) if options.kv_offload else 0
        chunks = interleavings(workload.model.layers, stages, options.virtual_stages)
        divisions = divisions_to_try(workload, options, shards)
        for (ulysses, context), virtual_stages in product(divisions, chunks):
            kind = options.cut_of(stages)
            tensor, copies = shards // (ulysses * context), ulysses * context * replicas
            layers = workload.model.layers // stages
            sharded = weights_to_try(options, tensor, copies, layers)
            tried = cuts(workload, profile, shards, count, kind, cap, ulysses, context)
            for lengths, sharded_weights in product(tried, sharded):
                group = options.group_subsequences
                layout = TimedLayout(
                    workload=workload,
                    profile=profile,
                    sequence_parallel=shards,
                    ulysses_parallel=ulysses,
                    context_parallel=context,
                    pipeline_parallel=stages,
                    data_parallel=replicas,
                    virtual_stages=virtual_stages,
                    group_subsequences=group or even_group(len(lengths), GROUP_STAGES * stages),
                    lengths_tokens=lengths,
                    kv_block_tokens=kv_block_tokens,
                    kv_sets=2 if several and stages > 1 and virtual_stages == 1 else 1,
                    head_alone=_parts_the_head(options, shards, stages, virtual_stages),
                    sharded_weights=sharded_weights,
                )
                yield from _in_pieces(layout, options)


def _in_pieces(layout: TimedLayout, options: SolverOptions) -> Iterator[TimedLayout]:
    """The layout with the asked pieces of an exchange, if it may have them, or with the faster.

    Where copies wait for compute, so do exchanges.
    """
    wanted = options.exchange_pieces
    if wanted == 1 or (wanted is None and not _hides_exchanges(layout, options)):
        yield layout
        return
    if not layout.may_exchange_in_pieces:
        if wanted is None:
            yield layout
        return
    parted = replace(layout, exchange_pieces=wanted or EXCHANGE_PIECES)
    faster = parted.cut_times.total < layout.cut_times.total
    yield parted if faster or wanted is not None else layout


def _hides_exchanges(layout: TimedLayout, options: SolverOptions) -> bool:
    return layout.profile.overlapped_copies and options.solver != "paper"


def _parts_the_head(options: SolverOptions, shards: int, stages: int, virtual_stages: int) -> bool:
    """Whether the head is a chunk of its own: only interleaved stages leave time for its messages.

    Raises ValueError if the options ask for such a head and the stages have one chunk each.
    """
    possible = stages > 1 and virtual_stages > 1
    if options.head_alone and not possible:
        raise ValueError(
            "the head can be a model chunk only where a stage has several model chunks: take "
            "--virtual-stages 2 or more, or leave the head to the solver"
        )
    if options.head_alone is None:
        return possible and shards == 1  # else the first stage has no room
    return options.head_alone
