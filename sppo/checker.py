"""The checker of a schedule: complete, ordered, leak-free, deadlock-free, or it must not run."""

from __future__ import annotations

from sppo.schedule import (
    RECEIVES,
    SENDS,
    Instruction,
    Op,
    Schedule,
    ScheduleError,
    matching_receive,
    needed_receive,
    peer_part,
)


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
        elif sequence >= schedule.kv_sets:
            before = Instruction(Op.BACKWARD, sequence - schedule.kv_sets, 0, part)
            needs.append((before, "reuses its KV buffers"))
    if op is Op.CLEAR and sequence > 0:
        before = Instruction(Op.BACKWARD, sequence - 1, 0, part)
        needs.append((before, "would lose gradients still to be read"))
    if op is Op.BACKWARD:
        needs.append((instruction._replace(op=Op.FORWARD), "needs its forward"))
        cleared = Instruction(Op.CLEAR, sequence, 0, part)
        needs.append((cleared, "adds to dK and dV"))
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
    """Every instruction that a stage must run: all but the copies."""
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
        expected |= {
            Instruction(Op.CLEAR, sequence, 0, part) for sequence in range(schedule.sequences)
        }
    return expected


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
