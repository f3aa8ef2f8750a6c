"""The checker of a schedule: complete, ordered, leak-free, deadlock-free, or it must not run."""

from __future__ import annotations

from sppo.schedule.dependencies import (
    Schedule,
    ScheduleError,
    carries_msp_weights,
    matching_receive,
    message_receives,
    message_sends,
    needed_receives,
    peer_of,
)
from sppo.schedule.instructions import RECEIVES, SENDS, Instruction, Op


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
        op, sequence, index, part, mine, _ = instruction
        if instruction in done:
            fail(position, "repeated")
        if not (0 <= sequence < schedule.sequences and 0 <= index < schedule.subsequences):
            fail(position, "no such subsequence")
        if not 0 <= part < schedule.parts:
            fail(position, "no such part")
        if op in (Op.FORWARD, Op.BACKWARD):
            slices = schedule.slicing.slices(part, index)
            if not 0 <= mine < len(slices) or slices[mine].rank != stage:
                fail(position, "this part is not of this stage")
        for needed, why in _needs(schedule, stage, instruction):
            if needed not in done:
                fail(position, f"{why} ({needed} has not run)")
        away = op is Op.BACKWARD and instruction._replace(op=Op.OFFLOAD) in done
        if away and instruction._replace(op=Op.RELOAD) not in done:
            fail(position, "reads what lies in the host tier: no fetch before it")
        done.add(instruction)
    expected = _expected(schedule, stage)
    missing = expected - done
    if missing:
        raise ScheduleError(f"stage {stage}: missing {', '.join(sorted(map(str, missing)))}")
    for instruction in done - expected:
        if instruction.op not in (Op.OFFLOAD, Op.RELOAD):
            raise ScheduleError(f"stage {stage}: {instruction} has no partner stage")
        if instruction.op is Op.OFFLOAD and instruction._replace(op=Op.RELOAD) not in done:
            raise ScheduleError(f"stage {stage}: {instruction} is never fetched, it leaks")


def _needs(
    schedule: Schedule, stage: int, instruction: Instruction
) -> list[tuple[Instruction, str]]:
    """What must have run before on the same stage, and why."""
    op, sequence, index, part, mine, _ = instruction
    compute = Instruction(Op.FORWARD, sequence, index, part, mine)
    backward = compute._replace(op=Op.BACKWARD)
    match op:
        case Op.FORWARD:
            return _needs_of_forward(schedule, instruction)
        case Op.BACKWARD:
            return _needs_of_backward(schedule, instruction)
        case Op.ZERO_DKV if sequence > 0:
            number = schedule.slicing.slice_of(part, 0, stage)
            if number is None:
                return []
            before = Instruction(Op.BACKWARD, sequence - 1, 0, part, number)
            return [(before, "would lose gradients still to be read")]
        case Op.SEND_F | Op.OFFLOAD:
            return [(compute, "nothing was made yet")]
        case Op.SEND_B | Op.SEND_DW:
            return [(backward, "nothing was made yet")]
        case Op.ADD_DW:
            return [(instruction._replace(op=Op.RECV_DW), "nothing was collected yet")]
        case Op.RELOAD:
            return [(instruction._replace(op=Op.OFFLOAD), "nothing lies in the host tier")]
    return []


def _reads(schedule: Schedule, instruction: Instruction) -> list[tuple[Instruction, str]]:
    """The messages of a forward or backward, and the same op of the subsequence before it."""
    why = {
        Op.RECV_F: "reads its input",
        Op.RECV_B: "reads its gradient",
        Op.RECV_W: "reads the weights",
    }
    return [(one, why[one.op]) for one in needed_receives(schedule, instruction)]


def _mine(schedule: Schedule, instruction: Instruction, index: int) -> Instruction | None:
    """The same for another subsequence, if this rank computes (a slice of) it."""
    _, sequence, _, part, _, _ = instruction
    number = schedule.slicing.slice_of(part, index, schedule.runs_on(instruction))
    if number is None:
        return None
    return Instruction(instruction.op, sequence, index, part, number)


def _needs_of_forward(
    schedule: Schedule, instruction: Instruction
) -> list[tuple[Instruction, str]]:
    sequence, index = instruction.sequence, instruction.subsequence
    needs = _reads(schedule, instruction)
    if index > 0:
        earlier = _mine(schedule, instruction, index - 1)
        if earlier is not None:
            needs.append((earlier, "reads its keys and values"))
    elif sequence >= schedule.kv_sets:
        before = instruction._replace(op=Op.BACKWARD, sequence=sequence - schedule.kv_sets)
        needs.append((before, "reuses its KV buffers"))
    return needs


def _needs_of_backward(
    schedule: Schedule, instruction: Instruction
) -> list[tuple[Instruction, str]]:
    _, sequence, index, part, _, _ = instruction
    needs = _reads(schedule, instruction)
    needs.append((instruction._replace(op=Op.FORWARD), "needs its forward"))
    needs.append((Instruction(Op.ZERO_DKV, sequence, 0, part), "adds to dK and dV"))
    if index + 1 < schedule.subsequences:
        later = _mine(schedule, instruction, index + 1)
        if later is not None:
            needs.append((later, "needs the dK and dV of every later subsequence"))
    return needs


def _expected(schedule: Schedule, stage: int) -> set[Instruction]:
    """Every instruction that a stage must run: all but the copies."""
    expected: set[Instruction] = set()
    slicing = schedule.slicing
    for sequence in range(schedule.sequences):
        own = range(stage, schedule.parts, len(schedule.stages))
        borrowed = [msp_split.part for msp_split in slicing.splits_helped_by(stage)]
        for part in (*own, *borrowed):
            expected.add(Instruction(Op.ZERO_DKV, sequence, 0, part))
            for index in range(schedule.subsequences):
                number = slicing.slice_of(part, index, stage)
                for op in (Op.FORWARD, Op.BACKWARD) if number is not None else ():
                    compute = Instruction(op, sequence, index, part, number or 0)
                    expected.add(compute)
                    expected.update(message_receives(slicing, schedule.parts, compute))
                    expected.update(message_sends(slicing, schedule.parts, compute))
        expected |= _expected_loans(schedule, stage, sequence)
    return expected


def _expected_loans(schedule: Schedule, stage: int, sequence: int) -> set[Instruction]:
    expected = set()
    slicing = schedule.slicing
    for msp_split in slicing.msp_splits:
        owner = schedule.stage_of(msp_split.part)
        for number, rank in enumerate(msp_split.ranks):
            if rank == owner or stage not in (rank, owner):
                continue
            ids, part = msp_split.subsequences, msp_split.part
            lend, *after = (
                (Op.SEND_W, Op.RECV_DW, Op.ADD_DW) if stage == owner else (Op.RECV_W, Op.SEND_DW)
            )
            expected.add(Instruction(lend, sequence, ids[0], part, number, 0))
            if slicing.splits_helped_by(rank)[-1] != msp_split:
                expected.add(Instruction(lend, sequence, ids[-1], part, number, 1))
            expected |= {Instruction(op, sequence, ids[0], part, number) for op in after}
    return expected


def _check_rendezvous(schedule: Schedule) -> None:
    """Run all stages together: a send waits for its posted receive, a compute for its message.

    The slices of a subsequence wait for each other. Between two stages, sends and receives must
    meet in the same order, those of lent weights in an order of their own.
    """
    positions = [0] * len(schedule.stages)
    posted: dict[tuple[int, int, bool], list[Instruction]] = {}
    arrived: set[Instruction] = set()

    gathered: set[Instruction] = set()

    def can_run(stage: int, instruction: Instruction) -> bool:
        if instruction.op in RECEIVES:
            sender = peer_of(schedule, instruction)
            posted.setdefault((sender, stage, carries_msp_weights(instruction)), []).append(
                instruction
            )
            return True
        if instruction.op in SENDS:
            peer = peer_of(schedule, instruction)
            queue = posted.get((stage, peer, carries_msp_weights(instruction)), [])
            if not queue:
                return False
            if queue[0] != matching_receive(instruction):
                raise ScheduleError(
                    f"stage {stage}, {instruction}: stage {peer} expects {queue[0]} next"
                )
            arrived.add(queue.pop(0))
            return True
        if any(needed not in arrived for needed in needed_receives(schedule, instruction)):
            return False
        gathered.add(instruction)
        if instruction.op not in (Op.FORWARD, Op.BACKWARD):
            return True
        return gathered.issuperset(schedule.together(instruction))

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
