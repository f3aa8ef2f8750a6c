"""A schedule, and the dependencies of its instructions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from sppo.plan.layout import Layout
from sppo.schedule.instructions import Instruction, Op


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """`stages[p]` are the instructions of stage p, in order, for so many sequences in a layout."""

    layout: Layout
    sequences: int
    stages: tuple[tuple[Instruction, ...], ...]

    def stage_of(self, part: int) -> int:
        """The stage that owns a model chunk."""
        return part % len(self.stages)

    def runs_on(self, instruction: Instruction) -> int:
        """The rank of a forward, a backward or a message's end."""
        slices = self.layout.slices(instruction.part, instruction.subsequence)
        return slices[instruction.slice].rank

    def together(self, instruction: Instruction) -> tuple[Instruction, ...]:
        """All slices of a forward or backward, which run at the same time on different ranks."""
        op, sequence, index, part, _, _ = instruction
        slices = self.layout.slices(part, index)
        if len(slices) == 1:
            return (instruction,)
        return tuple(
            Instruction(op, sequence, index, part, number) for number in range(len(slices))
        )

    def run(self, run: Callable[[int, Instruction], bool]) -> list[int]:
        """Run all stages until none advances; the position at which each stage stops.

        `run(stage, instruction)` is False where the stage must wait for another one.
        """
        positions = [0] * len(self.stages)
        advanced = True
        while advanced:
            advanced = False
            for stage, instructions in enumerate(self.stages):
                while positions[stage] < len(instructions):
                    if not run(stage, instructions[positions[stage]]):
                        break
                    positions[stage] += 1
                    advanced = True
        return positions


class ScheduleError(AssertionError):
    """A schedule that must not run; names stage, position and instruction."""


class Side(NamedTuple):
    """Tokens [start, start + tokens) of a compute's slice, in common with slice `other` of `rank`.

    That slice belongs to the chunk before or behind.
    """

    other: int
    start: int
    tokens: int
    rank: int


def sides_of(layout: Layout, compute: Instruction, *, reads: bool) -> list[Side]:
    """The slices of a neighbouring chunk that a compute reads from, or that read its output.

    Forwards read and write hidden states, backwards their gradients.
    """
    _, _, index, part, number, _ = compute
    before = reads == (compute.op is Op.FORWARD)
    neighbour = part - 1 if before else part + 1
    if not 0 <= neighbour < layout.part_count:
        return []
    if not (layout.is_split(part, index) or layout.is_split(neighbour, index)):
        return [Side(0, 0, layout.lengths_tokens[index], neighbour % layout.pipeline_parallel)]
    own, neighbours = layout.slices(part, index)[number], layout.slices(neighbour, index)
    sides = []
    for piece in layout.pieces(min(part, neighbour), index):
        here, there = (piece.target, piece.source) if before else (piece.source, piece.target)
        if here == number:
            rank = neighbours[there].rank
            sides.append(Side(there, piece.start - own.start, piece.tokens, rank))
    return sides


MESSAGE_OPS = {
    (Op.FORWARD, True): Op.RECV_F,
    (Op.FORWARD, False): Op.SEND_F,
    (Op.BACKWARD, True): Op.RECV_B,
    (Op.BACKWARD, False): Op.SEND_B,
}
"""(compute, whether it reads the message) -> the message's end on the same rank."""


def messages(layout: Layout, compute: Instruction, *, reads: bool) -> list[Instruction]:
    """Hidden states or gradients that a compute receives from other ranks, or sends to them."""
    op, sequence, index, part, number, _ = compute
    end = MESSAGE_OPS[op, reads]
    neighbour = part - 1 if reads == (op is Op.FORWARD) else part + 1
    if not (layout.is_split(part, index) or layout.is_split(neighbour, index)):
        crosses = (neighbour - part) % layout.pipeline_parallel != 0
        passes = crosses and 0 <= neighbour < layout.part_count
        return [Instruction(end, sequence, index, part)] if passes else []
    rank = layout.slices(part, index)[number].rank
    return [
        Instruction(end, sequence, index, part, number, side.other)
        for side in sides_of(layout, compute, reads=reads)
        if side.rank != rank
    ]


def message_tokens(schedule: Schedule, message: Instruction) -> int:
    """Tokens of hidden states, or of their gradient, in a send or receive."""
    ((op, reads),) = (key for key, end in MESSAGE_OPS.items() if end is message.op)
    compute = message._replace(op=op, other=0)
    sides = sides_of(schedule.layout, compute, reads=reads)
    (tokens,) = (side.tokens for side in sides if side.other == message.other)
    return tokens


def matching_receive(send: Instruction) -> Instruction:
    """The receive that a send meets, on the rank at its other end."""
    op, sequence, index, part, number, other = send
    if op is Op.SEND_F:
        return Instruction(Op.RECV_F, sequence, index, part + 1, other, number)
    if op is Op.SEND_B:
        return Instruction(Op.RECV_B, sequence, index, part - 1, other, number)
    assert op in (Op.SEND_W, Op.SEND_DW)
    receive = Op.RECV_W if op is Op.SEND_W else Op.RECV_DW
    return Instruction(receive, sequence, index, part, number, other)


def carries_msp_weights(instruction: Instruction) -> bool:
    """Whether a message is of an MSP split's weights or gradients, which have their own order."""
    return instruction.op in (Op.SEND_W, Op.RECV_W, Op.SEND_DW, Op.RECV_DW)


def peer_of(schedule: Schedule, instruction: Instruction) -> int:
    """The rank at the other end of a send or receive."""
    op, _, index, part, _, other = instruction
    if op in (Op.RECV_W, Op.SEND_DW):
        return schedule.stage_of(part)
    if op in (Op.SEND_W, Op.RECV_DW):
        return schedule.runs_on(instruction)
    neighbour = part + (1 if op in (Op.SEND_F, Op.RECV_B) else -1)
    return schedule.layout.slices(neighbour, index)[other].rank


def needed_receives(schedule: Schedule, instruction: Instruction) -> list[Instruction]:
    """The receives whose messages a compute waits for."""
    op, sequence, index, part, number, _ = instruction
    if op is Op.ADD_DW:
        return [instruction._replace(op=Op.RECV_DW)]
    if op not in (Op.FORWARD, Op.BACKWARD):
        return []
    layout, backward = schedule.layout, op is Op.BACKWARD
    needed = messages(layout, instruction, reads=True)
    if layout.is_split(part, index):
        msp_split = layout.split_of(part, index)
        helper = msp_split.ranks[number] != schedule.stage_of(part)
        if helper and not (backward and layout.keeps_weights(msp_split.ranks[number], msp_split)):
            first = msp_split.subsequences[-1 if backward else 0]
            needed.append(Instruction(Op.RECV_W, sequence, first, part, number, int(backward)))
    return needed
