"""A schedule, and what each of its instructions needs from others."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from sppo.plan.msp import Slicing
from sppo.schedule.instructions import Instruction, Op


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """`stages[p]` is what stage p runs, in order; `parts` counts the parts of the model.

    `kv_sets` sequences may have their keys and values at the same time.
    """

    subsequences: int
    sequences: int
    parts: int
    stages: tuple[tuple[Instruction, ...], ...]
    slicing: Slicing
    kv_sets: int = 1

    def stage_of(self, part: int) -> int:
        return part % len(self.stages)

    def runs_on(self, instruction: Instruction) -> int:
        """The rank of a forward, a backward or a message's end."""
        slices = self.slicing.slices(instruction.part, instruction.subsequence)
        return slices[instruction.slice].rank

    def together(self, instruction: Instruction) -> tuple[Instruction, ...]:
        """All slices of a forward or backward, which run at the same time on different ranks."""
        slices = self.slicing.slices(instruction.part, instruction.subsequence)
        return tuple(instruction._replace(slice=number) for number in range(len(slices)))


class ScheduleError(AssertionError):
    """A schedule that must not run; names stage, position and instruction."""


class Side(NamedTuple):
    """Tokens [start, start + tokens) of a compute's slice that another slice made or will read."""

    other: int
    start: int
    tokens: int
    rank: int


def _sides(slicing: Slicing, parts: int, compute: Instruction, *, reads: bool) -> list[Side]:
    """The slices of a neighbouring part that a compute reads from, or that read what it makes."""
    _, _, index, part, mine, _ = compute
    before = reads == (compute.op is Op.FORWARD)
    neighbour = part - 1 if before else part + 1
    if not 0 <= neighbour < parts:
        return []
    own, theirs = slicing.slices(part, index)[mine], slicing.slices(neighbour, index)
    sides = []
    for piece in slicing.pieces(min(part, neighbour), index):
        here, there = (piece.target, piece.source) if before else (piece.source, piece.target)
        if here == mine:
            sides.append(Side(there, piece.start - own.start, piece.tokens, theirs[there].rank))
    return sides


def inputs_of(schedule: Schedule, compute: Instruction) -> list[Side]:
    """Where a forward's hidden states, or a backward's gradient, come from, by token."""
    return _sides(schedule.slicing, schedule.parts, compute, reads=True)


def outputs_of(schedule: Schedule, compute: Instruction) -> list[Side]:
    """Where what it makes goes, by token."""
    return _sides(schedule.slicing, schedule.parts, compute, reads=False)


def message_receives(slicing: Slicing, parts: int, compute: Instruction) -> list[Instruction]:
    """Hidden states or gradients that a forward or backward gets from other ranks."""
    rank = slicing.slices(compute.part, compute.subsequence)[compute.slice].rank
    op = Op.RECV_F if compute.op is Op.FORWARD else Op.RECV_B
    sides = _sides(slicing, parts, compute, reads=True)
    return [compute._replace(op=op, other=side.other) for side in sides if side.rank != rank]


def message_sends(slicing: Slicing, parts: int, compute: Instruction) -> list[Instruction]:
    """What a forward or backward hands to other ranks."""
    rank = slicing.slices(compute.part, compute.subsequence)[compute.slice].rank
    op = Op.SEND_F if compute.op is Op.FORWARD else Op.SEND_B
    sides = _sides(slicing, parts, compute, reads=False)
    return [compute._replace(op=op, other=side.other) for side in sides if side.rank != rank]


def message_tokens(schedule: Schedule, message: Instruction) -> int:
    """Tokens of hidden states, or of their gradient, in a send or receive."""
    forward = message.op in (Op.SEND_F, Op.RECV_F)
    reads = message.op in (Op.RECV_F, Op.RECV_B)
    compute = message._replace(op=Op.FORWARD if forward else Op.BACKWARD, other=0)
    sides = _sides(schedule.slicing, schedule.parts, compute, reads=reads)
    (tokens,) = (side.tokens for side in sides if side.other == message.other)
    return tokens


def matching_receive(instruction: Instruction) -> Instruction:
    """The receive that a send meets, on the rank at its other end."""
    op, sequence, index, part, mine, other = instruction
    if op is Op.SEND_F:
        return Instruction(Op.RECV_F, sequence, index, part + 1, other, mine)
    if op is Op.SEND_B:
        return Instruction(Op.RECV_B, sequence, index, part - 1, other, mine)
    assert op in (Op.SEND_W, Op.SEND_DW)
    return instruction._replace(op=Op.RECV_W if op is Op.SEND_W else Op.RECV_DW)


def carries_msp_weights(instruction: Instruction) -> bool:
    """Whether a message carries what belongs to a lending; those have an order of their own."""
    return instruction.op in (Op.SEND_W, Op.RECV_W, Op.SEND_DW, Op.RECV_DW)


def peer_of(schedule: Schedule, instruction: Instruction) -> int:
    """The rank at the other end of a send or receive."""
    op, _, index, part, mine, other = instruction
    if op in (Op.RECV_W, Op.SEND_DW):
        return schedule.stage_of(part)
    if op in (Op.SEND_W, Op.RECV_DW):
        return schedule.slicing.slices(part, index)[mine].rank
    behind = op in (Op.SEND_F, Op.RECV_B)
    return schedule.slicing.slices(part + (1 if behind else -1), index)[other].rank


def needed_receives(schedule: Schedule, instruction: Instruction) -> list[Instruction]:
    """The receives whose messages a compute waits for."""
    if instruction.op is Op.ADD_DW:
        return [instruction._replace(op=Op.RECV_DW)]
    if instruction.op not in (Op.FORWARD, Op.BACKWARD):
        return []
    needed = message_receives(schedule.slicing, schedule.parts, instruction)
    _, sequence, index, part, mine, _ = instruction
    slicing = schedule.slicing
    if slicing.is_split(part, index):
        msp_split = slicing.split_of(part, index)
        rank = msp_split.ranks[mine]
        ids, backward = msp_split.subsequences, instruction.op is Op.BACKWARD
        borrows = rank != schedule.stage_of(part)
        if borrows and (not backward or slicing.splits_helped_by(rank)[-1] != msp_split):
            first = ids[-1] if backward else ids[0]
            needed.append(Instruction(Op.RECV_W, sequence, first, part, mine, int(backward)))
    return needed
