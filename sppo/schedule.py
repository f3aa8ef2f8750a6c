"""A schedule is data: per stage, the list of typed instructions it will run. And its checker.

    RA0.3  post the receive of subsequence 3's hidden states (sequence 0) from the stage before
    F0.3   forward; needs RA0.3 complete on every stage but the first
    SA0.3  hand the hidden states to the stage behind
    O0.3   offload: the planned units of subsequence 3 leave for the host tier
    RG0.3  post the receive of the gradient of the hidden states from the stage behind
    T0.3   fetch: what was offloaded comes back
    B0.3   backward; needs RG0.3 on every stage but the last, T0.3 if there was O0.3
    SG0.3  hand the gradient to the stage before

Receives are posted ahead and complete later; a send is taken as a rendezvous (NCCL), even where a
transport would buffer it.
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
    """One thing a stage does, to one subsequence of one sequence."""

    op: Op
    sequence: int
    subsequence: int

    def __str__(self) -> str:
        return f"{self.op.value}{self.sequence}.{self.subsequence}"


def parse_instruction(text: str) -> Instruction:
    """The inverse of str(). Raises ValueError on anything else."""
    match = re.fullmatch(r"(RA|SA|RG|SG|F|O|T|B)(\d+)\.(\d+)", text)
    if match is None:
        raise ValueError(f"not an instruction: {text!r}; write for example F0.3")
    return Instruction(Op(match[1]), int(match[2]), int(match[3]))


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """`stages[p]` is what stage p runs, in order."""

    subsequences: int
    sequences: int
    stages: tuple[tuple[Instruction, ...], ...]


class ScheduleError(AssertionError):
    """A schedule that must not run; names stage, position and instruction."""


def build_schedule(plan: Plan) -> Schedule:
    """Forwards first to last, backwards last to first, sequence after sequence."""
    stages = []
    for stage in range(plan.pipeline_parallel):
        instructions: list[Instruction] = []
        for sequence in range(plan.sequences_per_step):
            instructions += _forward_phase(plan, stage, sequence)
            instructions += _backward_phase(plan, stage, sequence)
        stages.append(tuple(instructions))
    return Schedule(
        subsequences=plan.subsequences,
        sequences=plan.sequences_per_step,
        stages=tuple(stages),
    )


def _forward_phase(plan: Plan, stage: int, sequence: int) -> list[Instruction]:
    first, last = stage == 0, stage == plan.pipeline_parallel - 1
    count = plan.subsequences
    instructions = []
    if not first:
        instructions.append(Instruction(Op.RECEIVE_ACTIVATION, sequence, 0))
    for index in range(count):
        if not first and index + 1 < count:
            instructions.append(Instruction(Op.RECEIVE_ACTIVATION, sequence, index + 1))
        instructions.append(Instruction(Op.FORWARD, sequence, index))
        if not last:
            instructions.append(Instruction(Op.SEND_ACTIVATION, sequence, index))
        if plan.stages[stage].offload_units[index]:
            instructions.append(Instruction(Op.OFFLOAD, sequence, index))
    return instructions


def _backward_phase(plan: Plan, stage: int, sequence: int) -> list[Instruction]:
    first, last = stage == 0, stage == plan.pipeline_parallel - 1
    count, ahead = plan.subsequences, plan.fetch_ahead
    offloaded = [bool(units) for units in plan.stages[stage].offload_units]
    instructions = []
    if not last:
        instructions.append(Instruction(Op.RECEIVE_GRADIENT, sequence, count - 1))
    instructions += [
        Instruction(Op.FETCH, sequence, index)
        for index in range(count - 1, count - 1 - ahead, -1)
        if index >= 0 and offloaded[index]
    ]
    for index in reversed(range(count)):
        if not last and index > 0:
            instructions.append(Instruction(Op.RECEIVE_GRADIENT, sequence, index - 1))
        if index - ahead >= 0 and offloaded[index - ahead]:
            instructions.append(Instruction(Op.FETCH, sequence, index - ahead))
        instructions.append(Instruction(Op.BACKWARD, sequence, index))
        if not first:
            instructions.append(Instruction(Op.SEND_GRADIENT, sequence, index))
    return instructions


def check_schedule(schedule: Schedule) -> None:
    """Raise ScheduleError unless the schedule is complete, ordered, leak-free and deadlock-free."""
    for stage in range(len(schedule.stages)):
        _check_stage(schedule, stage)
    _check_rendezvous(schedule)


def _check_stage(schedule: Schedule, stage: int) -> None:
    """Each instruction once, and after what it needs."""
    instructions = schedule.stages[stage]
    first, last = stage == 0, stage == len(schedule.stages) - 1
    done: set[Instruction] = set()

    def fail(position: int, why: str) -> None:
        raise ScheduleError(f"stage {stage}, position {position}, {instructions[position]}: {why}")

    for position, instruction in enumerate(instructions):
        op, sequence, index = instruction
        if instruction in done:
            fail(position, "repeated")
        if not (0 <= sequence < schedule.sequences and 0 <= index < schedule.subsequences):
            fail(position, "no such subsequence")
        for needed, why in _needs(instruction, first, last, schedule.subsequences):
            if needed not in done:
                fail(position, f"{why} ({needed} has not run)")
        if op is Op.BACKWARD:
            left = Instruction(Op.OFFLOAD, sequence, index)
            if left in done and Instruction(Op.FETCH, sequence, index) not in done:
                fail(position, "reads what lies in the host tier: no fetch before it")
        done.add(instruction)
    expected = _expected(schedule, first, last)
    missing = expected - done
    if missing:
        raise ScheduleError(f"stage {stage}: missing {', '.join(sorted(map(str, missing)))}")
    for instruction in done - expected:
        if instruction.op not in (Op.OFFLOAD, Op.FETCH):
            raise ScheduleError(f"stage {stage}: {instruction} has no partner stage")
        if instruction.op is Op.OFFLOAD and instruction._replace(op=Op.FETCH) not in done:
            raise ScheduleError(f"stage {stage}: {instruction} is never fetched, it leaks")


def _needs(
    instruction: Instruction, first: bool, last: bool, subsequences: int
) -> list[tuple[Instruction, str]]:
    """What must have run before on the same stage, and why."""
    op, sequence, index = instruction
    needs: list[tuple[Instruction, str]] = []
    if op is Op.FORWARD:
        if not first:
            needs.append((instruction._replace(op=Op.RECEIVE_ACTIVATION), "reads its input"))
        if index > 0:
            needs.append((Instruction(op, sequence, index - 1), "reads its keys and values"))
        elif sequence > 0:
            needs.append((Instruction(Op.BACKWARD, sequence - 1, 0), "reuses its KV buffers"))
    if op is Op.BACKWARD:
        needs.append((instruction._replace(op=Op.FORWARD), "needs its forward"))
        if not last:
            needs.append((instruction._replace(op=Op.RECEIVE_GRADIENT), "reads its gradient"))
        later = Instruction(op, sequence, index + 1)
        if index + 1 < subsequences:
            needs.append((later, "needs the dK and dV of every later subsequence"))
    if op in (Op.SEND_ACTIVATION, Op.OFFLOAD):
        needs.append((instruction._replace(op=Op.FORWARD), "nothing was made yet"))
    if op is Op.SEND_GRADIENT:
        needs.append((instruction._replace(op=Op.BACKWARD), "nothing was made yet"))
    if op is Op.FETCH:
        needs.append((instruction._replace(op=Op.OFFLOAD), "nothing lies in the host tier"))
    return needs


def _expected(schedule: Schedule, first: bool, last: bool) -> set[Instruction]:
    ops = [Op.FORWARD, Op.BACKWARD]
    if not first:
        ops += [Op.RECEIVE_ACTIVATION, Op.SEND_GRADIENT]
    if not last:
        ops += [Op.SEND_ACTIVATION, Op.RECEIVE_GRADIENT]
    return {
        Instruction(op, sequence, index)
        for op in ops
        for sequence in range(schedule.sequences)
        for index in range(schedule.subsequences)
    }


def _check_rendezvous(schedule: Schedule) -> None:
    """Run all stages together: a send waits for its posted receive, a compute for its message.

    Per pair and direction, sends and receives must meet in the same order.
    """
    positions = [0] * len(schedule.stages)
    posted: dict[tuple[int, Op], list[Instruction]] = {}
    arrived: set[tuple[int, Instruction]] = set()

    def can_run(stage: int, instruction: Instruction) -> bool:
        op, sequence, index = instruction
        if op in RECEIVES:
            posted.setdefault((stage, op), []).append(instruction)
            return True
        if op in SENDS:
            forward = op is Op.SEND_ACTIVATION
            peer = stage + 1 if forward else stage - 1
            receive = Op.RECEIVE_ACTIVATION if forward else Op.RECEIVE_GRADIENT
            queue = posted.get((peer, receive), [])
            if not queue:
                return False
            wanted = Instruction(receive, sequence, index)
            if queue[0] != wanted:
                raise ScheduleError(
                    f"stage {stage}, {instruction}: stage {peer} expects {queue[0]} next"
                )
            arrived.add((peer, queue.pop(0)))
            return True
        if op is Op.FORWARD and stage > 0:
            return (stage, instruction._replace(op=Op.RECEIVE_ACTIVATION)) in arrived
        if op is Op.BACKWARD and stage + 1 < len(schedule.stages):
            return (stage, instruction._replace(op=Op.RECEIVE_GRADIENT)) in arrived
        return True

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
