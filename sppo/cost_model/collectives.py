"""Collectives of a step: calls and bytes, exact integers. No torch.

Counted as the engine's `Traffic` does: the bytes of the undivided tensor of every collective.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from sppo.plan.blocks import block_of, gradient_element_bytes
from sppo.plan.parts import PartShape, exchange_runs, state_elements
from sppo.plan.plan import Plan, part_shape
from sppo.plan.saved_tensors import LOSS_TILE_TOKENS


@dataclass(frozen=True, kw_only=True)
class CollectiveTraffic:
    """Collectives of one rank: how many, and their bytes together."""

    calls: int = 0
    bytes: int = 0

    def __add__(self, other: CollectiveTraffic) -> CollectiveTraffic:
        return CollectiveTraffic(calls=self.calls + other.calls, bytes=self.bytes + other.bytes)

    def __mul__(self, times: int) -> CollectiveTraffic:
        return CollectiveTraffic(calls=times * self.calls, bytes=times * self.bytes)


def shard_collectives(plan: Plan, stage: int) -> CollectiveTraffic:
    """Collectives of one rank with the ranks that divide the weights of its stage, in a step."""
    total = CollectiveTraffic()
    if plan.tensor_parallel == 1:
        return total
    for part in plan.parts_of(stage):
        shape = part_shape(plan, part)
        for index in range(plan.subsequences):
            tokens = plan.tokens_of(part, index, stage)
            if tokens:
                total += _subsequence(shape, tokens, plan.recomputed(part, index, stage))
    own = range(stage, len(plan.parts), plan.pipeline_parallel)
    whole = sum(part_shape(plan, part).elements.whole for part in own)
    size = gradient_element_bytes(plan.element_bytes)
    return total * plan.sequences + CollectiveTraffic(calls=1, bytes=whole * size)


def ulysses_collectives(plan: Plan, stage: int) -> CollectiveTraffic:
    """All-to-alls of one rank around attention, in a step."""
    total = CollectiveTraffic()
    if plan.ulysses_parallel == 1:
        return total
    block = block_of(plan.model)
    always = [*block.forward_all_to_alls, *block.backward_all_to_alls]
    sums_bytes = block.backward_sums * gradient_element_bytes(plan.element_bytes)
    for part in plan.parts_of(stage):
        layers = len(part_shape(plan, part).layers)
        for index in range(plan.subsequences):
            tokens = plan.tokens_of(part, index, stage) // plan.sequence_parallel
            if tokens:
                names = plan.recomputed(part, index, stage)
                again = [block.saved_tensors_by_name[name].all_to_all for name in names]
                wanted = 1 if plan.is_split(part, index) else plan.exchange_pieces
                pieces = len(exchange_runs(tokens, wanted))
                exchanged = [(pieces, plan.element_bytes * width) for width in always]
                exchanged += [(1, plan.element_bytes * width) for width in filter(None, again)]
                exchanged += [(pieces, sums_bytes)] if sums_bytes else []
                for calls, width in exchanged:
                    each = CollectiveTraffic(calls=calls, bytes=tokens * width)
                    total += each * layers
    return total * plan.sequences


def context_collectives(plan: Plan, stage: int) -> CollectiveTraffic:
    """Gathers of K and V, and sums of dK and dV, over the ranks with the same heads, in a step."""
    total = CollectiveTraffic()
    if plan.context_parallel == 1:
        return total
    block, size = block_of(plan.model), plan.element_bytes
    for part in plan.parts_of(stage):
        layers = len(part_shape(plan, part).layers)
        for index, (start, tokens) in enumerate(
            zip(plan.starts_tokens, plan.lengths_tokens, strict=True)
        ):
            rows = tokens // plan.context_parallel
            step = max(block.prefix_block_tokens // plan.context_parallel, rows)
            blocks = -(-(start // plan.context_parallel) // step)
            pieces = 1
            if plan.ulysses_parallel > 1:
                pieces = len(exchange_runs(tokens // plan.sequence_parallel, plan.exchange_pieces))
            calls = layers * (pieces + blocks)
            elements = layers * block.state_elements * (start + tokens) // plan.head_parallel
            gather = CollectiveTraffic(calls=calls, bytes=elements * size)
            names = plan.recomputed(part, index, stage)
            sums = CollectiveTraffic(calls=calls, bytes=elements * gradient_element_bytes(size))
            total += gather * 2 + sums
            if any(block.saved_tensors_by_name[name].recipe == "mixer" for name in names):
                calls = layers * (1 + blocks)
                total += CollectiveTraffic(calls=calls, bytes=gather.bytes)
    return total * plan.sequences


def replica_collectives(plan: Plan, stage: int) -> CollectiveTraffic:
    """Collectives of one rank with those of its weights, in a step: gradients, then weights."""
    if plan.weight_copies == 1:
        return CollectiveTraffic()
    own = range(stage, len(plan.parts), plan.pipeline_parallel)
    elements = state_elements([part_shape(plan, part) for part in own])
    size = plan.element_bytes + gradient_element_bytes(plan.element_bytes)
    return CollectiveTraffic(calls=2 * elements.whole_buffers, bytes=elements.whole * size)


def weight_collectives(plan: Plan, stage: int) -> CollectiveTraffic:
    """Gathers of sharded blocks for each forward and backward, and sums of their gradients."""
    total = CollectiveTraffic()
    if not plan.sharded_weights:
        return total
    size = plan.element_bytes
    for part in range(stage, len(plan.parts), plan.pipeline_parallel):
        shape = part_shape(plan, part)
        gather = CollectiveTraffic(calls=1, bytes=shape.gathered_elements * size)
        wide = shape.gathered_elements * gradient_element_bytes(size)
        of_layer = gather * 2 + CollectiveTraffic(calls=1, bytes=wide)
        total += of_layer * (len(shape.layers) * plan.subsequences)
    return total * plan.sequences


LOSS_AND_NORM = CollectiveTraffic(calls=1, bytes=16)
"""Two float64 numbers, summed over all ranks."""


def step_collectives(plan: Plan, stage: int) -> CollectiveTraffic:
    """All collectives of one rank of a stage in a step."""
    of_stage = shard_collectives(plan, stage) + ulysses_collectives(plan, stage)
    of_stage += context_collectives(plan, stage) + weight_collectives(plan, stage)
    return of_stage + replica_collectives(plan, stage) + LOSS_AND_NORM


def _subsequence(shape: PartShape, tokens: int, recomputed: Iterable[str]) -> CollectiveTraffic:
    """Forward and backward of so many tokens in one model chunk.

    The ranks that divide the weights share the tokens of one Ulysses and context rank.
    """
    block = block_of(shape.model)
    products = sum(block.saved_tensors_by_name[name].recipe == "linear" for name in recomputed)
    exchanges = block.forward_exchanges + block.backward_exchanges + products
    size = shape.element_bytes
    shared = tokens // (shape.ulysses * shape.context)
    hidden = CollectiveTraffic(calls=1, bytes=shared * shape.model.hidden * size)
    total = hidden * (len(shape.layers) * exchanges)
    if shape.first:
        total += hidden * 2
    if shape.head:
        tile = max(1, LOSS_TILE_TOKENS // shape.shards)
        tiles = -(-(tokens // shape.shards) // tile)
        logsumexps = shape.weight_shards * shared * gradient_element_bytes(size)
        total += CollectiveTraffic(calls=3 * tiles, bytes=2 * hidden.bytes + logsumexps)
    return total
