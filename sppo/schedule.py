"""A schedule is data: per stage, the list of typed instructions it will run.

    RA0.3@1  post the receive of the hidden states of subsequence 3 (sequence 0) for part 1
    F0.3@1   forward through part 1; needs RA0.3@1 complete, but on the first part
    SA0.3@1  hand the hidden states to the stage of part 2
    O0.3@1   offload: what the plan sends of subsequence 3 in part 1 leaves for the host tier
    RG0.3@1  post the receive of the gradient of part 1's output
    T0.3@1   fetch: what was offloaded comes back
    Z0.0@1   zero the dK and dV of part 1, before the backward of sequence 0
    B0.3@1   backward; needs RG0.3@1, but on the last part, and T0.3@1 if there was O0.3@1
    SG0.3@1  hand the gradient to the stage of part 0

A part is a run of consecutive layers; part k belongs to stage k mod PP. Receives are posted
`receive_ahead` computes ahead and complete later; a send is taken as a rendezvous (NCCL), in order
per pair, even where a transport would buffer it.

Where a part is lent (`msp.py`), a subsequence has slices, each on a rank of its own:

    BW0.0/1@0  post the receive of part 0's weights, on the rank of slice 1
    LW0.0/1@0  lend them to it
    F0.0/1@0   forward of slice 1, together with the other slices: K and V go to all of them
    SA0.0/1>0@0  the tokens that slice 1 of part 0 and slice 0 of part 1 have in common
    B0.0/1@0   backward of slice 1, together with the others: dK and dV go to whose they are
    GW0.0/1@0  give the weights' gradients back; CW posts their receive, AW adds them
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple

from sppo.msp import Slicing, with_slices
from sppo.orders import compute_order, stage_computes
from sppo.plan import Plan


class Op(Enum):
    RECEIVE_ACTIVATION = "RA"
    FORWARD = "F"
    SEND_ACTIVATION = "SA"
    OFFLOAD = "O"
    RECEIVE_GRADIENT = "RG"
    FETCH = "T"
    CLEAR = "Z"
    BACKWARD = "B"
    SEND_GRADIENT = "SG"
    LEND = "LW"
    BORROW = "BW"
    GIVE_BACK = "GW"
    COLLECT = "CW"
    ADD = "AW"


RECEIVES = (Op.RECEIVE_ACTIVATION, Op.RECEIVE_GRADIENT, Op.BORROW, Op.COLLECT)
SENDS = (Op.SEND_ACTIVATION, Op.SEND_GRADIENT, Op.LEND, Op.GIVE_BACK)


class Instruction(NamedTuple):
    """One thing a stage does, to one subsequence of one sequence, in one part of the model.

    slice: which slice of the subsequence, where the part is lent. other: of a message, the slice at
    its other end; of a lending, 1 in the backward.
    """

    op: Op
    sequence: int
    subsequence: int
    part: int
    slice: int = 0
    other: int = 0

    def __str__(self) -> str:
        slices = f"/{self.slice}" if self.slice or self.other else ""
        slices += f">{self.other}" if self.other else ""
        return f"{self.op.value}{self.sequence}.{self.subsequence}{slices}@{self.part}"


_TEXT = re.compile(rf"({'|'.join(op.value for op in Op)})(\d+)\.(\d+)(?:/(\d+)(?:>(\d+))?)?@(\d+)")


def parse_instruction(text: str) -> Instruction:
    """The inverse of str(). Raises ValueError on anything else."""
    match = _TEXT.fullmatch(text)
    if match is None:
        raise ValueError(f"not an instruction: {text!r}; write for example F0.3@1")
    sequence, subsequence, mine, other, part = (int(number or 0) for number in match.groups()[1:])
    return Instruction(Op(match[1]), sequence, subsequence, part, mine, other)


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


def plan_slicing(plan: Plan) -> Slicing:
    return Slicing(
        stages=plan.pipeline_parallel,
        lengths_tokens=plan.lengths_tokens,
        lendings=plan.lendings,
    )


def build_schedule(plan: Plan) -> Schedule:
    """Forwards first to last, backwards last to first; several sequences mixed or in turn."""
    slicing = plan_slicing(plan)
    stages = range(plan.pipeline_parallel)
    return Schedule(
        subsequences=plan.subsequences,
        sequences=plan.sequences_per_step,
        parts=len(plan.parts),
        stages=tuple(tuple(_stage_instructions(plan, slicing, stage)) for stage in stages),
        slicing=slicing,
        kv_sets=plan.kv_sets,
    )


def _stage_instructions(plan: Plan, slicing: Slicing, stage: int) -> Iterator[Instruction]:
    """The computes of a stage in order, each with its messages and copies around it."""
    computes = _computes(plan, slicing, stage)
    fetches = _fetches(plan, stage, computes)
    lent = _lending_instructions(plan, slicing, stage, computes)
    first: dict[tuple[Op, int], int] = {}
    for position, compute in enumerate(computes):
        first.setdefault((compute.op, compute.sequence), position)
    ahead = plan.receive_ahead
    for early in computes[:ahead]:
        yield from _receives(plan, slicing, early)
    for position, compute in enumerate(computes):
        if position + ahead < len(computes):
            yield from _receives(plan, slicing, computes[position + ahead])
        yield from fetches.get(position, [])
        yield from lent.get((position, False), [])
        yield from _clears(plan, slicing, stage, computes, position, first)
        yield compute
        yield from _after(plan, slicing, stage, compute)
        yield from lent.get((position, True), [])


def _computes(plan: Plan, slicing: Slicing, stage: int) -> list[Instruction]:
    head = plan.head_alone and stage == 0
    parts = list(range(stage, len(plan.parts), plan.pipeline_parallel))
    parts += [lending.part for lending in slicing.borrowed(stage)]
    order = compute_order(
        plan.virtual_stages, plan.subsequences, plan.group_subsequences, head=head
    )
    order = with_slices(order, slicing, stage, parts, head=plan.virtual_stages if head else None)
    computes = stage_computes(
        order,
        sequences=plan.sequences_per_step,
        mixed=plan.kv_sets > 1,
        ahead=plan.pipeline_parallel - 1 - stage,
    )
    return [
        Instruction(
            Op.FORWARD if forward else Op.BACKWARD,
            sequence,
            index,
            parts[place],
            slicing.slice_of(parts[place], index, stage) or 0,
        )
        for forward, sequence, place, index in computes
    ]


def _lending_instructions(
    plan: Plan, slicing: Slicing, stage: int, computes: list[Instruction]
) -> dict[tuple[int, bool], list[Instruction]]:
    """By (position, whether after that compute): weights before the slices, gradients after them.

    A helper that still has the weights when the backward begins does not borrow them again.
    """
    found: dict[tuple[int, bool], list[Instruction]] = {}
    for lending in slicing.lendings:
        if stage not in lending.ranks:
            continue
        owner = lending.part % slicing.stages
        helpers = [number for number, rank in enumerate(lending.ranks) if rank != owner]
        if stage != owner:
            helpers = [lending.ranks.index(stage)]
        for sequence in range(plan.sequences_per_step):
            for backward in (False, True):
                op = Op.BACKWARD if backward else Op.FORWARD
                mine = [
                    position
                    for position, compute in enumerate(computes)
                    if compute.op is op
                    and compute.sequence == sequence
                    and compute.part == lending.part
                    and compute.subsequence in lending.subsequences
                ]
                for helper in helpers:
                    rank = lending.ranks[helper]
                    one = Instruction(
                        Op.LEND if stage == owner else Op.BORROW,
                        sequence,
                        computes[mine[0]].subsequence,
                        lending.part,
                        helper,
                        int(backward),
                    )
                    if not backward or slicing.borrowed(rank)[-1] != lending:
                        found.setdefault((mine[0], False), []).append(one)
                    if backward:
                        last = one._replace(subsequence=computes[mine[-1]].subsequence, other=0)
                        after = Op.ADD if stage == owner else Op.GIVE_BACK
                        found.setdefault((mine[-1], True), []).append(last._replace(op=after))
                        if stage == owner:
                            collect = last._replace(op=Op.COLLECT)
                            found.setdefault((mine[-1], False), []).append(collect)
    return found


def _clears(
    plan: Plan,
    slicing: Slicing,
    stage: int,
    computes: list[Instruction],
    position: int,
    first: dict[tuple[Op, int], int],
) -> list[Instruction]:
    """Zero dK and dV of all parts where this stage waits anyway.

    The first stage waits for its first gradient, the others for their first hidden states. Of mixed
    sequences only the first is waited for: the others zero before their own backward.
    """
    op, sequence = computes[position].op, computes[position].sequence
    waits = Op.FORWARD if stage and (sequence == 0 or plan.kv_sets == 1) else Op.BACKWARD
    if op is not waits or position != first[op, sequence]:
        return []
    own = range(stage, len(plan.parts), plan.pipeline_parallel)
    borrowed = [lending.part for lending in slicing.borrowed(stage)]
    return [Instruction(Op.CLEAR, sequence, 0, part) for part in (*own, *borrowed)]


def _receives(plan: Plan, slicing: Slicing, compute: Instruction) -> list[Instruction]:
    """The receives that this compute needs."""
    return message_receives(slicing, len(plan.parts), compute)


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
    op = Op.RECEIVE_ACTIVATION if compute.op is Op.FORWARD else Op.RECEIVE_GRADIENT
    sides = _sides(slicing, parts, compute, reads=True)
    return [compute._replace(op=op, other=side.other) for side in sides if side.rank != rank]


def message_sends(slicing: Slicing, parts: int, compute: Instruction) -> list[Instruction]:
    """What a forward or backward hands to other ranks."""
    rank = slicing.slices(compute.part, compute.subsequence)[compute.slice].rank
    op = Op.SEND_ACTIVATION if compute.op is Op.FORWARD else Op.SEND_GRADIENT
    sides = _sides(slicing, parts, compute, reads=False)
    return [compute._replace(op=op, other=side.other) for side in sides if side.rank != rank]


def message_tokens(schedule: Schedule, message: Instruction) -> int:
    """Tokens of hidden states, or of their gradient, in a send or receive."""
    forward = message.op in (Op.SEND_ACTIVATION, Op.RECEIVE_ACTIVATION)
    reads = message.op in (Op.RECEIVE_ACTIVATION, Op.RECEIVE_GRADIENT)
    compute = message._replace(op=Op.FORWARD if forward else Op.BACKWARD, other=0)
    sides = _sides(schedule.slicing, schedule.parts, compute, reads=reads)
    (tokens,) = (side.tokens for side in sides if side.other == message.other)
    return tokens


def _fetches(plan: Plan, stage: int, computes: list[Instruction]) -> dict[int, list[Instruction]]:
    """Position of a backward -> fetches issued before it: `fetch_ahead` backwards ahead of need."""
    position_of = {compute: position for position, compute in enumerate(computes)}
    backwards = [compute for compute in computes if compute.op is Op.BACKWARD]
    fetches: dict[int, list[Instruction]] = {}
    issued: set[Instruction] = set()
    for number, backward in enumerate(backwards):
        position = position_of[backward]
        for early in backwards[number : number + plan.fetch_ahead + 1]:
            away = _travels(plan, stage, early)
            made = position_of[early._replace(op=Op.FORWARD)] < position
            if away and made and early not in issued:
                issued.add(early)
                fetches.setdefault(position, []).append(early._replace(op=Op.FETCH))
    return fetches


def _travels(plan: Plan, stage: int, compute: Instruction) -> bool:
    """Whether something of it goes to the host tier: never what is made for another stage."""
    own = compute.part % plan.pipeline_parallel == stage
    return own and bool(plan.parts[compute.part].offload_units[compute.subsequence])


def _after(plan: Plan, slicing: Slicing, stage: int, compute: Instruction) -> list[Instruction]:
    """What follows a compute: its messages, and after a forward its offload."""
    instructions = message_sends(slicing, len(plan.parts), compute)
    if compute.op is Op.FORWARD and _travels(plan, stage, compute):
        instructions.append(compute._replace(op=Op.OFFLOAD))
    return instructions


def matching_receive(instruction: Instruction) -> Instruction:
    """The receive that a send meets, on the rank at its other end."""
    op, sequence, index, part, mine, other = instruction
    if op is Op.SEND_ACTIVATION:
        return Instruction(Op.RECEIVE_ACTIVATION, sequence, index, part + 1, other, mine)
    if op is Op.SEND_GRADIENT:
        return Instruction(Op.RECEIVE_GRADIENT, sequence, index, part - 1, other, mine)
    assert op in (Op.LEND, Op.GIVE_BACK)
    return instruction._replace(op=Op.BORROW if op is Op.LEND else Op.COLLECT)


def is_loan(instruction: Instruction) -> bool:
    """Whether a message carries what belongs to a lending; those have an order of their own."""
    return instruction.op in (Op.LEND, Op.BORROW, Op.GIVE_BACK, Op.COLLECT)


def peer_of(schedule: Schedule, instruction: Instruction) -> int:
    """The rank at the other end of a send or receive."""
    op, _, index, part, mine, other = instruction
    if op in (Op.BORROW, Op.GIVE_BACK):
        return schedule.stage_of(part)
    if op in (Op.LEND, Op.COLLECT):
        return schedule.slicing.slices(part, index)[mine].rank
    behind = op in (Op.SEND_ACTIVATION, Op.RECEIVE_GRADIENT)
    return schedule.slicing.slices(part + (1 if behind else -1), index)[other].rank


def needed_receives(schedule: Schedule, instruction: Instruction) -> list[Instruction]:
    """The receives whose messages a compute waits for."""
    if instruction.op is Op.ADD:
        return [instruction._replace(op=Op.COLLECT)]
    if instruction.op not in (Op.FORWARD, Op.BACKWARD):
        return []
    needed = message_receives(schedule.slicing, schedule.parts, instruction)
    _, sequence, index, part, mine, _ = instruction
    slicing = schedule.slicing
    if slicing.is_lent(part, index):
        lending = slicing.lending_of(part, index)
        rank = lending.ranks[mine]
        ids, backward = lending.subsequences, instruction.op is Op.BACKWARD
        borrows = rank != schedule.stage_of(part)
        if borrows and (not backward or slicing.borrowed(rank)[-1] != lending):
            first = ids[-1] if backward else ids[0]
            needed.append(Instruction(Op.BORROW, sequence, first, part, mine, int(backward)))
    return needed
