"""A schedule is data: per stage, the list of typed instructions it will run. And its checker.

    RA0.3@1  post the receive of the hidden states of subsequence 3 (sequence 0) for part 1
    F0.3@1   forward through part 1; needs RA0.3@1 complete, but on the first part
    SA0.3@1  hand the hidden states to the stage of part 2
    O0.3@1   offload: what the plan sends of subsequence 3 in part 1 leaves for the host tier
    RG0.3@1  post the receive of the gradient of part 1's output
    T0.3@1   fetch: what was offloaded comes back
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

from sppo.plan import Plan


class Op(Enum):
    RECEIVE_ACTIVATION = "RA"
    FORWARD = "F"
    SEND_ACTIVATION = "SA"
    OFFLOAD = "O"
    RECEIVE_GRADIENT = "RG"
    FETCH = "T"
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
    match = re.fullmatch(r"(RA|SA|RG|SG|F|O|T|B)(\d+)\.(\d+)@(\d+)", text)
    if match is None:
        raise ValueError(f"not an instruction: {text!r}; write for example F0.3@1")
    return Instruction(Op(match[1]), int(match[2]), int(match[3]), int(match[4]))


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """`stages[p]` is what stage p runs, in order; `parts` counts the parts of the model."""

    subsequences: int
    sequences: int
    parts: int
    stages: tuple[tuple[Instruction, ...], ...]

    def stage_of(self, part: int) -> int:
        return part % len(self.stages)


class ScheduleError(AssertionError):
    """A schedule that must not run; names stage, position and instruction."""


def compute_order(virtual_stages: int, subsequences: int, group: int) -> list[tuple[int, int]]:
    """(virtual stage, subsequence) of a stage's forwards; its backwards are the reverse.

    Megatron's interleaved order: a group of at least PP subsequences passes all parts before the
    next one begins. Larger groups have the same bubble and more slack between the stages.
    """
    order = []
    for first in range(0, subsequences, group):
        members = range(first, min(first + group, subsequences))
        order += [(virtual, index) for virtual in range(virtual_stages) for index in members]
    return order


def build_schedule(plan: Plan) -> Schedule:
    """Forwards first to last, backwards last to first, sequence after sequence."""
    return Schedule(
        subsequences=plan.subsequences,
        sequences=plan.sequences_per_step,
        parts=plan.pipeline_parallel * plan.virtual_stages,
        stages=tuple(_stage_instructions(plan, stage) for stage in range(plan.pipeline_parallel)),
    )


def _stage_instructions(plan: Plan, stage: int) -> tuple[Instruction, ...]:
    """The computes of a stage in order, each with its messages and copies around it."""
    order = compute_order(plan.virtual_stages, plan.subsequences, plan.group_subsequences)
    forwards = [(index, stage + virtual * plan.pipeline_parallel) for virtual, index in order]
    computes = []
    for sequence in range(plan.sequences_per_step):
        computes += [Instruction(Op.FORWARD, sequence, *where) for where in forwards]
        computes += [Instruction(Op.BACKWARD, sequence, *where) for where in reversed(forwards)]
    ahead = plan.receive_ahead
    instructions = [receive for early in computes[:ahead] for receive in _receive(plan, early)]
    for position, compute in enumerate(computes):
        if position + ahead < len(computes):
            instructions += _receive(plan, computes[position + ahead])
        if compute.op is Op.BACKWARD:
            instructions += _fetches(plan, computes, position)
        instructions.append(compute)
        instructions += _after(plan, compute)
    return tuple(instructions)


def _receive(plan: Plan, compute: Instruction) -> list[Instruction]:
    """The receive that this compute needs, if any."""
    if compute.op is Op.FORWARD and compute.part > 0:
        return [compute._replace(op=Op.RECEIVE_ACTIVATION)]
    if compute.op is Op.BACKWARD and compute.part + 1 < len(plan.parts):
        return [compute._replace(op=Op.RECEIVE_GRADIENT)]
    return []


def _fetches(plan: Plan, computes: list[Instruction], position: int) -> list[Instruction]:
    """Fetches issued before this backward: its own, or `fetch_ahead` backwards ahead of need."""
    first = position == 0 or computes[position - 1].op is Op.FORWARD
    start = position if first else position + plan.fetch_ahead
    wanted = []
    for compute in computes[start : position + plan.fetch_ahead + 1]:
        if compute.op is not Op.BACKWARD:
            break
        if plan.parts[compute.part].offload_units[compute.subsequence]:
            wanted.append(compute._replace(op=Op.FETCH))
    return wanted


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


def check_schedule(schedule: Schedule) -> None:
    """Raise ScheduleError unless the schedule is complete, ordered, leak-free and deadlock-free."""
    for stage in range(len(schedule.stages)):
        _check_stage(schedule, stage)
    _check_rendezvous(schedule)


def _check_stage(schedule: Schedule, stage: int) -> None:
    """Each instruction once, and after what it needs."""
    instructions = schedule.stages[stage]
    done: set[Instruction] = set()

    def fail(position: int, why: str) -> None:
        raise ScheduleError(f"stage {stage}, position {position}, {instructions[position]}: {why}")

    for position, instruction in enumerate(instructions):
        op, sequence, index, part = instruction
        if instruction in done:
            fail(position, "repeated")
        if not (0 <= sequence < schedule.sequences and 0 <= index < schedule.subsequences):
            fail(position, "no such subsequence")
        if not 0 <= part < schedule.parts or schedule.stage_of(part) != stage:
            fail(position, "this part is not of this stage")
        for needed, why in _needs(schedule, instruction):
            if needed not in done:
                fail(position, f"{why} ({needed} has not run)")
        away = op is Op.BACKWARD and instruction._replace(op=Op.OFFLOAD) in done
        if away and instruction._replace(op=Op.FETCH) not in done:
            fail(position, "reads what lies in the host tier: no fetch before it")
        done.add(instruction)
    expected = _expected(schedule, stage)
    missing = expected - done
    if missing:
        raise ScheduleError(f"stage {stage}: missing {', '.join(sorted(map(str, missing)))}")
    for instruction in done - expected:
        if instruction.op not in (Op.OFFLOAD, Op.FETCH):
            raise ScheduleError(f"stage {stage}: {instruction} has no partner stage")
        if instruction.op is Op.OFFLOAD and instruction._replace(op=Op.FETCH) not in done:
            raise ScheduleError(f"stage {stage}: {instruction} is never fetched, it leaks")


def _needs(schedule: Schedule, instruction: Instruction) -> list[tuple[Instruction, str]]:
    """What must have run before on the same stage, and why."""
    op, sequence, index, part = instruction
    needs: list[tuple[Instruction, str]] = []
    if op is Op.FORWARD:
        if part > 0:
            needs.append((instruction._replace(op=Op.RECEIVE_ACTIVATION), "reads its input"))
        if index > 0:
            earlier = instruction._replace(subsequence=index - 1)
            needs.append((earlier, "reads its keys and values"))
        elif sequence > 0:
            before = Instruction(Op.BACKWARD, sequence - 1, 0, part)
            needs.append((before, "reuses its KV buffers"))
    if op is Op.BACKWARD:
        needs.append((instruction._replace(op=Op.FORWARD), "needs its forward"))
        if part + 1 < schedule.parts:
            needs.append((instruction._replace(op=Op.RECEIVE_GRADIENT), "reads its gradient"))
        if index + 1 < schedule.subsequences:
            later = instruction._replace(subsequence=index + 1)
            needs.append((later, "needs the dK and dV of every later subsequence"))
    if op in (Op.SEND_ACTIVATION, Op.OFFLOAD):
        needs.append((instruction._replace(op=Op.FORWARD), "nothing was made yet"))
    if op is Op.SEND_GRADIENT:
        needs.append((instruction._replace(op=Op.BACKWARD), "nothing was made yet"))
    if op is Op.FETCH:
        needs.append((instruction._replace(op=Op.OFFLOAD), "nothing lies in the host tier"))
    return needs


def _expected(schedule: Schedule, stage: int) -> set[Instruction]:
    """Every instruction but the copies that a stage must run."""
    expected = set()
    for part in range(stage, schedule.parts, len(schedule.stages)):
        ops = [Op.FORWARD, Op.BACKWARD]
        if part > 0:
            ops += [Op.RECEIVE_ACTIVATION, Op.SEND_GRADIENT]
        if part + 1 < schedule.parts:
            ops += [Op.SEND_ACTIVATION, Op.RECEIVE_GRADIENT]
        expected |= {
            Instruction(op, sequence, index, part)
            for op in ops
            for sequence in range(schedule.sequences)
            for index in range(schedule.subsequences)
        }
    return expected


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


def _check_rendezvous(schedule: Schedule) -> None:
    """Run all stages together: a send waits for its posted receive, a compute for its message.

    Between two stages, sends and receives must meet in the same order.
    """
    positions = [0] * len(schedule.stages)
    posted: dict[tuple[int, int], list[Instruction]] = {}
    arrived: set[Instruction] = set()

    def can_run(stage: int, instruction: Instruction) -> bool:
        if instruction.op in RECEIVES:
            sender = schedule.stage_of(peer_part(instruction))
            posted.setdefault((sender, stage), []).append(instruction)
            return True
        if instruction.op in SENDS:
            peer = schedule.stage_of(peer_part(instruction))
            queue = posted.get((stage, peer), [])
            if not queue:
                return False
            if queue[0] != matching_receive(instruction):
                raise ScheduleError(
                    f"stage {stage}, {instruction}: stage {peer} expects {queue[0]} next"
                )
            arrived.add(queue.pop(0))
            return True
        needed = needed_receive(schedule, instruction)
        return needed is None or needed in arrived

    moved = True
    while moved:
        moved = False
        for stage, instructions in enumerate(schedule.stages):
            while positions[stage] < len(instructions):
                if not can_run(stage, instructions[positions[stage]]):
                    break
                positions[stage] += 1
                moved = True
    stuck = [
        f"stage {stage} waits at {instructions[position]}"
        for stage, (instructions, position) in enumerate(
            zip(schedule.stages, positions, strict=True)
        )
        if position < len(instructions)
    ]
    if stuck:
        raise ScheduleError("deadlock: " + "; ".join(stuck))
