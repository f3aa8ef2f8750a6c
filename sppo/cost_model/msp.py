"""What lending costs: slices, what they tell each other, and what travels between the ranks."""

from __future__ import annotations

from collections.abc import Iterator

from sppo.config.hardware import Hardware
from sppo.cost_model.times import copy_ns, recompute_ns, stage_link, subsequence_cost
from sppo.plan.blocks import block_of
from sppo.plan.msp import MspSplit, Slice, Slicing
from sppo.plan.parts import PartShape
from sppo.plan.plan import Plan, part_shape
from sppo.schedule.cost_table import ComputeKey, Sent, SliceCosts
from sppo.schedule.instructions import Instruction, Op


def plan_slice_costs(plan: Plan, profile: Hardware) -> SliceCosts:
    """The simulator's costs of what a plan lends on a profile; times in nanoseconds."""
    if not plan.msp_splits:
        return SliceCosts()
    compute: dict[ComputeKey, int] = {}
    kept: dict[ComputeKey, int] = {}
    exchanged: dict[ComputeKey, Sent] = {}
    sent: dict[Instruction, Sent] = {}
    slicing = plan.layout.slicing
    link = _packed_link(plan, profile)
    for msp_split in plan.msp_splits:
        shape = part_shape(plan, msp_split.part)
        for index in msp_split.subsequences:
            row = slicing.slices(msp_split.part, index)
            for number, one in enumerate(row):
                place = msp_split.part, index, number
                dropped = _dropped(plan, msp_split, index, one.rank)
                kept[Op.FORWARD, *place] = shape.kept_bytes(one.tokens, dropped)
                forward, backward = _compute(plan, profile, shape, index, one, dropped)
                told = _exchanged(shape, row, number, link)
                for op, own, more in zip(
                    (Op.FORWARD, Op.BACKWARD), (forward, backward), told, strict=True
                ):
                    compute[op, *place] = own + more.time
                    exchanged[op, *place] = more
        sent.update(_loans(plan, msp_split, shape, profile, link))
    for (op, _, index, part, number, _), message in sent.items():
        if op is Op.SEND_DW:
            added = copy_ns(2 * message.bytes, profile.memory_bytes_per_second)
            compute[Op.ADD_DW, part, index, number] = added
    sent.update(_pieces(plan, slicing, link))
    return SliceCosts(compute=compute, kept_bytes=kept, exchanged=exchanged, sent=sent)


def _packed_link(plan: Plan, profile: Hardware) -> tuple[float, float]:
    """Bytes/s and latency of a message that is packed before and taken apart behind its way."""
    rate, latency = stage_link(profile, plan.sequence_parallel * plan.pipeline_parallel)
    return 1 / (1 / rate + 4 / profile.memory_bytes_per_second), latency


def _dropped(plan: Plan, msp_split: MspSplit, index: int, rank: int) -> tuple[str, ...]:
    """Units that are recomputed of a slice."""
    if rank == msp_split.part % plan.pipeline_parallel:
        return plan.parts[msp_split.part].recompute_units[index]
    return msp_split.recompute_units


def _compute(
    plan: Plan,
    profile: Hardware,
    shape: PartShape,
    index: int,
    one: Slice,
    dropped: tuple[str, ...],
) -> tuple[int, int]:
    """Nanoseconds of a slice's forward and backward, without what it tells others."""
    start = plan.starts_tokens[index] + one.start
    shards, layers = plan.sequence_parallel, len(shape.layers)
    cost = subsequence_cost(
        plan.model,
        profile,
        layers=layers,
        head=shape.head,
        start=start,
        tokens=one.tokens,
        shards=shards,
    )
    again = recompute_ns(
        plan.model, profile, dropped, start=start, tokens=one.tokens, shards=shards
    )
    return cost.forward_ns, cost.backward_ns + layers * again


def _exchanged(
    shape: PartShape, row: tuple[Slice, ...], number: int, link: tuple[float, float]
) -> tuple[Sent, Sent]:
    """What one slice sends the others in its forward (K, V) and its backward (dK, dV).

    Its time is that of the larger direction, once a layer.
    """
    size, layers = shape.element_bytes, len(shape.layers)
    wide = max(4, size)
    mine = row[number].tokens
    others = sum(one.tokens for one in row) - mine
    peers = len(row) - 1
    found = []
    for tokens, element, back in ((mine * peers, size, others), (others, wide, mine * peers)):
        out = shape.kv_bytes(tokens, element)
        larger = max(out, shape.kv_bytes(back, element))
        time = layers * copy_ns(larger // layers, *link)
        found.append(Sent(messages=layers * peers, bytes=out, time=time))
    return found[0], found[1]


def _loans(
    plan: Plan,
    msp_split: MspSplit,
    shape: PartShape,
    profile: Hardware,
    link: tuple[float, float],
) -> dict[Instruction, Sent]:
    """Weights, with K and V of all earlier positions; gradients, with dK and dV of them."""
    owner = msp_split.part % plan.pipeline_parallel
    first, last = msp_split.subsequences[0], msp_split.subsequences[-1]
    size, wide = shape.element_bytes, max(4, shape.element_bytes)
    prefix = plan.starts_tokens[first]
    block = block_of(plan.model)
    heads = len(block.state) * len(shape.layers) * block.state_heads // plan.sequence_parallel
    heads = heads if prefix else 0

    def sent(elements: int, cached: int, messages: int) -> Sent:
        total = elements + cached
        return Sent(messages=1 + messages, bytes=total, time=copy_ns(total, *link))

    found = {}
    for number, rank in enumerate(msp_split.ranks):
        if rank == owner:
            continue
        lend = Instruction(Op.SEND_W, 0, first, msp_split.part, number)
        weights = shape.parameters * size
        found[lend] = sent(weights, shape.kv_bytes(prefix, size), heads)
        found[lend._replace(subsequence=last, other=1)] = sent(weights, 0, 0)
        found[lend._replace(op=Op.SEND_DW)] = sent(
            shape.parameters * wide, shape.kv_bytes(prefix, wide), heads
        )
    return found


def _pieces(
    plan: Plan, slicing: Slicing, link: tuple[float, float]
) -> Iterator[tuple[Instruction, Sent]]:
    """Hidden states and their gradients between parts of which one is lent at least."""
    width = plan.model.hidden * plan.element_bytes
    slice_costs = {
        (msp_split.part, index) for msp_split in plan.msp_splits for index in msp_split.subsequences
    }
    last = len(plan.parts) - 1
    borders = {(part, index) for part, index in slice_costs if part < last}
    borders |= {(part - 1, index) for part, index in slice_costs if part}
    for part, index in borders:
        for piece in slicing.pieces(part, index):
            size = -(-piece.tokens * width // plan.sequence_parallel)
            sent = Sent(messages=1, bytes=size, time=copy_ns(size, *link))
            down = Instruction(Op.SEND_F, 0, index, part, piece.source, piece.target)
            yield down, sent
            up = Instruction(Op.SEND_B, 0, index, part + 1, piece.target, piece.source)
            yield up, sent
