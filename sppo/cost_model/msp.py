"""Costs of MSP splits: slices, their exchange of K and V, and messages between the ranks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from sppo.config.hardware import Hardware
from sppo.cost_model.hosted_kv import kv_copy_seconds, kv_span
from sppo.cost_model.times import copy_ns, part_cost, stage_link
from sppo.plan.blocks import block_of, gradient_element_bytes
from sppo.plan.layout import Layout
from sppo.plan.msp import MspSplit, Slice
from sppo.plan.parts import PartShape
from sppo.plan.plan import Plan, part_shape
from sppo.schedule.cost_table import ComputeKey, Sent, SliceCosts
from sppo.schedule.instructions import Instruction, Op

Link = tuple[float, float]
"""Bytes/s, and latency in seconds."""


Recomputed = Callable[[int, int, int], tuple[str, ...]]
"""(chunk, subsequence, rank) -> the saved tensors that the rank recomputes."""


def plan_slice_costs(plan: Plan, profile: Hardware) -> SliceCosts:
    """The simulator's costs of a plan's MSP splits on a profile; times in nanoseconds."""
    shapes = [part_shape(plan, number) for number in range(len(plan.parts))]
    return layout_slice_costs(plan, shapes, profile, plan.recomputed)


def layout_slice_costs(
    layout: Layout, shapes: Sequence[PartShape], profile: Hardware, recomputed: Recomputed
) -> SliceCosts:
    """The same of a layout with these chunks and decisions."""
    if not layout.msp_splits:
        return SliceCosts()
    compute: dict[ComputeKey, int] = {}
    saved: dict[ComputeKey, int] = {}
    exchanged: dict[ComputeKey, Sent] = {}
    sent: dict[Instruction, Sent] = {}
    link = _packed_link(layout, profile)
    for msp_split in layout.msp_splits:
        part, shape = msp_split.part, replace(shapes[msp_split.part], exchange_pieces=1)
        for index in msp_split.subsequences:
            row = layout.slices(part, index)
            for number, (rank, start, tokens) in enumerate(row):
                names = recomputed(part, index, rank)
                start += layout.starts_tokens[index]
                cost = part_cost(shape, profile, names, start=start, tokens=tokens)
                forward, backward = _exchanges(shape, row, number, link)
                copies = _hosted_ns(layout, shape, profile, (part, index, rank))
                key = part, index, number
                saved[Op.FORWARD, *key] = shape.kept_bytes(tokens, names)
                compute[Op.FORWARD, *key] = cost.forward_ns + forward.time + copies[0]
                compute[Op.BACKWARD, *key] = cost.backward_ns + backward.time + copies[1]
                exchanged[Op.FORWARD, *key] = forward
                exchanged[Op.BACKWARD, *key] = backward
        sent.update(_weight_messages(layout, msp_split, shape, link, profile))
    for (op, _, index, part, number, _), message in sent.items():
        if op is Op.SEND_DW:
            added = copy_ns(2 * message.bytes, profile.memory_bytes_per_second)
            if layout.kv_block_tokens:
                added += _hosted_sums_ns(layout, shapes[part], profile, (part, index))
            compute[Op.ADD_DW, part, index, number] = added
    sent.update(_hidden_state_messages(layout, shapes[0], link))
    return SliceCosts(compute=compute, kept_bytes=saved, exchanged=exchanged, sent=sent)


def _hosted_ns(
    layout: Layout, shape: PartShape, profile: Hardware, at: tuple[int, int, int]
) -> tuple[int, int]:
    """Copies of hosted K and V of a slice, in its forward and its backward, in ns.

    at: chunk, subsequence, rank.
    """
    if not layout.kv_block_tokens:
        return 0, 0
    span = kv_span(layout, *at)
    seconds = kv_copy_seconds(shape.model, profile, span, shards=layout.sequence_parallel)
    forward, backward = (round(len(shape.layers) * each * 1e9) for each in seconds)
    return forward, backward


def _packed_link(layout: Layout, profile: Hardware) -> Link:
    """The link of messages that are packed by the sender and unpacked by the receiver."""
    rate, latency = stage_link(profile, layout.sequence_parallel * layout.pipeline_parallel)
    return 1 / (1 / rate + 4 / profile.memory_bytes_per_second), latency


def _exchanges(
    shape: PartShape, row: tuple[Slice, ...], number: int, link: Link
) -> tuple[Sent, Sent]:
    """A slice's messages to the other slices: of K and V in its forward, dK and dV in its backward.

    The time is that of the larger direction, once a layer.
    """
    peers, layers = len(row) - 1, len(shape.layers)
    own = row[number].tokens * peers
    rest = sum(each.tokens for each in row) - row[number].tokens

    def exchange(sent_tokens: int, received_tokens: int, element_bytes: int) -> Sent:
        size = shape.kv_bytes(sent_tokens, element_bytes)
        larger = max(size, shape.kv_bytes(received_tokens, element_bytes))
        time = layers * copy_ns(larger // layers, *link)
        return Sent(messages=layers * peers, bytes=size, time=time)

    forward = exchange(own, rest, shape.element_bytes)
    return forward, exchange(rest, own, gradient_element_bytes(shape.element_bytes))


def _weight_messages(
    layout: Layout, msp_split: MspSplit, shape: PartShape, link: Link, profile: Hardware
) -> Iterator[tuple[Instruction, Sent]]:
    """Weights, with K and V of all earlier positions; gradients, with dK and dV of them.

    Hosted K and V are copied at both ends, and one helper after the other gets them. The owner
    copies dK and dV as it adds them.
    """
    first, last = msp_split.subsequences[0], msp_split.subsequences[-1]
    prefix = layout.starts_tokens[first]
    blocks = _prefix_messages(layout, shape, prefix)

    def sent(
        element_bytes: int, prefix_tokens: int, hosted_copies: int = 0, turns: int = 1
    ) -> Sent:
        states = shape.kv_bytes(prefix_tokens, element_bytes)
        size = shape.parameters * element_bytes + states
        messages = 1 + (blocks if prefix_tokens else 0)
        copies = 0
        if layout.kv_block_tokens:
            slower = min(profile.h2d_bytes_per_second, profile.d2h_bytes_per_second)
            copies = copy_ns(hosted_copies * states, slower)
        time = (copy_ns(size, *link) + copies) * turns
        return Sent(messages=messages, bytes=size, time=time)

    in_turn = bool(layout.kv_block_tokens and prefix)
    for turn, (number, _) in enumerate(layout.helpers(msp_split), 1):
        send = Instruction(Op.SEND_W, 0, first, msp_split.part, number)
        yield send, sent(shape.element_bytes, prefix, 2, turn if in_turn else 1)
        yield send._replace(subsequence=last, other=1), sent(shape.element_bytes, 0)
        gradient_bytes = gradient_element_bytes(shape.element_bytes)
        yield send._replace(op=Op.SEND_DW), sent(gradient_bytes, prefix, 1)


def _hosted_sums_ns(
    layout: Layout, shape: PartShape, profile: Hardware, at: tuple[int, int]
) -> int:
    """The owner's copies of dK and dV, H2D and D2H, to which it adds those of one helper.

    at: chunk, and a subsequence of its split.
    """
    first = layout.split_of(*at).subsequences[0]
    size = shape.kv_bytes(layout.starts_tokens[first], gradient_element_bytes(shape.element_bytes))
    return sum(
        copy_ns(size, rate) for rate in (profile.h2d_bytes_per_second, profile.d2h_bytes_per_second)
    )


def _prefix_messages(layout: Layout, shape: PartShape, tokens: int) -> int:
    """Messages of K and V of `tokens` positions: by head on the device, by block of a host tier."""
    if layout.kv_block_tokens:
        return len(shape.layers) * -(-tokens // layout.kv_block_tokens)
    block = block_of(shape.model)
    heads = block.state_heads // layout.sequence_parallel
    return len(block.state) * len(shape.layers) * heads


def _hidden_state_messages(
    layout: Layout, shape: PartShape, link: Link
) -> Iterator[tuple[Instruction, Sent]]:
    """Hidden states and their gradients between model chunks, one of them split at least."""
    width = shape.model.hidden * shape.element_bytes
    borders = {
        (part, index)
        for msp_split in layout.msp_splits
        for index in msp_split.subsequences
        for part in (msp_split.part - 1, msp_split.part)
        if 0 <= part < layout.part_count - 1
    }
    for part, index in borders:
        for piece in layout.pieces(part, index):
            size = -(-piece.tokens * width // layout.sequence_parallel)
            sent = Sent(messages=1, bytes=size, time=copy_ns(size, *link))
            yield Instruction(Op.SEND_F, 0, index, part, piece.source, piece.target), sent
            yield Instruction(Op.SEND_B, 0, index, part + 1, piece.target, piece.source), sent
