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
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple

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


RECEIVES = (Op.RECEIVE_ACTIVATION, Op.RECEIVE_GRADIENT)
SENDS = (Op.SEND_ACTIVATION, Op.SEND_GRADIENT)


class Instruction(NamedTuple):
    """One thing a stage does, to one subsequence of one sequence, in one part of the model."""

    op: Op
    sequence: int
    subsequence: int
    part: int

    def __str__(self) -> str:
        return f"{self.op.value}{self.sequence}.{self.subsequence}@{self.part}"


def parse_instruction(text: str) -> Instruction:
    """The inverse of str(). Raises ValueError on anything else."""
    match = re.fullmatch(r"(RA|SA|RG|SG|F|O|T|B|Z)(\d+)\.(\d+)@(\d+)", text)
    if match is None:
        raise ValueError(f"not an instruction: {text!r}; write for example F0.3@1")
    return Instruction(Op(match[1]), int(match[2]), int(match[3]), int(match[4]))


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """`stages[p]` is what stage p runs, in order; `parts` counts the parts of the model.

    `kv_sets` sequences may have their keys and values at the same time.
    """

    subsequences: int
    sequences: int
    parts: int
    stages: tuple[tuple[Instruction, ...], ...]
    kv_sets: int = 1

    def stage_of(self, part: int) -> int:
        return part % len(self.stages)


class ScheduleError(AssertionError):
    """A schedule that must not run; names stage, position and instruction."""


def build_schedule(plan: Plan) -> Schedule:
    """Forwards first to last, backwards last to first; several sequences mixed or in turn."""
    return Schedule(
        subsequences=plan.subsequences,
        sequences=plan.sequences_per_step,
        parts=len(plan.parts),
        stages=tuple(_stage_instructions(plan, stage) for stage in range(plan.pipeline_parallel)),
        kv_sets=plan.kv_sets,
    )


def _stage_instructions(plan: Plan, stage: int) -> tuple[Instruction, ...]:
    """The computes of a stage in order, each with its messages and copies around it."""
    order = compute_order(
        plan.virtual_stages,
        plan.subsequences,
        plan.group_subsequences,
        head=plan.head_alone and stage == 0,
    )
    computes = [
        Instruction(
            Op.FORWARD if forward else Op.BACKWARD,
            sequence,
            index,
            stage + virtual * plan.pipeline_parallel,
        )
        for forward, sequence, virtual, index in stage_computes(
            order,
            sequences=plan.sequences_per_step,
            mixed=plan.kv_sets > 1,
            ahead=plan.pipeline_parallel - 1 - stage,
        )
    ]
    fetches = _fetches(plan, computes)
    first: dict[tuple[Op, int], int] = {}
    for position, compute in enumerate(computes):
        first.setdefault((compute.op, compute.sequence), position)
    ahead = plan.receive_ahead
    instructions = [receive for early in computes[:ahead] for receive in _receive(plan, early)]
    for position, compute in enumerate(computes):
        if position + ahead < len(computes):
            instructions += _receive(plan, computes[position + ahead])
        instructions += fetches.get(position, [])
        instructions += _clears(plan, stage, computes, position, first)
        instructions.append(compute)
        instructions += _after(plan, compute)
    return tuple(instructions)


def _clears(
    plan: Plan,
    stage: int,
    computes: list[Instruction],
    position: int,
    first: dict[tuple[Op, int], int],
) -> list[Instruction]:
    """Zero dK and dV of all parts where this stage waits anyway.

    The first stage waits for its first gradient, the others for their first hidden states. Of mixed
    sequences only the first is waited for: the others zero before their own backward.
    """
    op, sequence, _, _ = computes[position]
    waits = Op.FORWARD if stage and (sequence == 0 or plan.kv_sets == 1) else Op.BACKWARD
    if op is not waits or position != first[op, sequence]:
        return []
    parts = range(stage, len(plan.parts), plan.pipeline_parallel)
    return [Instruction(Op.CLEAR, sequence, 0, part) for part in parts]


def _receive(plan: Plan, compute: Instruction) -> list[Instruction]:
    """The receive that this compute needs, if any."""
    if compute.op is Op.FORWARD and compute.part > 0:
        return [compute._replace(op=Op.RECEIVE_ACTIVATION)]
    if compute.op is Op.BACKWARD and compute.part + 1 < len(plan.parts):
        return [compute._replace(op=Op.RECEIVE_GRADIENT)]
    return []


def _fetches(plan: Plan, computes: list[Instruction]) -> dict[int, list[Instruction]]:
    """Position of a backward -> fetches issued before it: `fetch_ahead` backwards ahead of need."""
    position_of = {compute: position for position, compute in enumerate(computes)}
    backwards = [compute for compute in computes if compute.op is Op.BACKWARD]
    fetches: dict[int, list[Instruction]] = {}
    issued: set[Instruction] = set()
    for number, backward in enumerate(backwards):
        position = position_of[backward]
        for early in backwards[number : number + plan.fetch_ahead + 1]:
            away = plan.parts[early.part].offload_units[early.subsequence]
            made = position_of[early._replace(op=Op.FORWARD)] < position
            if away and made and early not in issued:
                issued.add(early)
                fetches.setdefault(position, []).append(early._replace(op=Op.FETCH))
    return fetches


def _after(plan: Plan, compute: Instruction) -> list[Instruction]:
    """What follows a compute: its message, and after a forward its offload."""
    instructions = []
    if compute.op is Op.FORWARD:
        if compute.part + 1 < len(plan.parts):
            instructions.append(compute._replace(op=Op.SEND_ACTIVATION))
        if plan.parts[compute.part].offload_units[compute.subsequence]:
            instructions.append(compute._replace(op=Op.OFFLOAD))
    elif compute.part > 0:
        instructions.append(compute._replace(op=Op.SEND_GRADIENT))
    return instructions


def matching_receive(instruction: Instruction) -> Instruction:
    """The receive that a send meets, on the stage of the neighbouring part."""
    if instruction.op is Op.SEND_ACTIVATION:
        return instruction._replace(op=Op.RECEIVE_ACTIVATION, part=instruction.part + 1)
    assert instruction.op is Op.SEND_GRADIENT
    return instruction._replace(op=Op.RECEIVE_GRADIENT, part=instruction.part - 1)


def peer_part(instruction: Instruction) -> int:
    """The part at the other end of a send or receive."""
    behind = instruction.op in (Op.SEND_ACTIVATION, Op.RECEIVE_GRADIENT)
    return instruction.part + (1 if behind else -1)


def needed_receive(schedule: Schedule, instruction: Instruction) -> Instruction | None:
    """The receive whose message a compute waits for."""
    if instruction.op is Op.FORWARD and instruction.part > 0:
        return instruction._replace(op=Op.RECEIVE_ACTIVATION)
    if instruction.op is Op.BACKWARD and instruction.part + 1 < schedule.parts:
        return instruction._replace(op=Op.RECEIVE_GRADIENT)
    return None
