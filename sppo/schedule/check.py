"""The checker of a schedule: complete, ordered, leak-free, deadlock-free, or it must not run."""

from __future__ import annotations

from sppo.schedule.dependencies import (
    Schedule,
    ScheduleError,
    carries_msp_weights,
    matching_receive,
    messages,
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
    """Each instruction once, and after those it needs."""
    instructions = schedule.stages[stage]
    done: set[Instruction] = set()

    def fail(position: int, why: str) -> None:
        raise ScheduleError(f"stage {stage}, position {position}, {instructions[position]}: {why}")

    for position, instruction in enumerate(instructions):
        op, sequence, index, part, number, _ = instruction
        if instruction in done:
            fail(position, "repeated")
        if not (0 <= sequence < schedule.sequences and 0 <= index < schedule.layout.subsequences):
            fail(position, "no such subsequence")
        if not 0 <= part < schedule.layout.part_count:
            fail(position, "no such chunk")
        if op in (Op.FORWARD, Op.BACKWARD):
            slices = schedule.layout.slices(part, index)
            if not 0 <= number < len(slices) or slices[number].rank != stage:
                fail(position, "this chunk is not of this stage")
        for needed, why in _needs(schedule, stage, instruction):
            if needed not in done:
                fail(position, f"{why} ({needed} has not run)")
        offloaded = op is Op.BACKWARD and instruction._replace(op=Op.OFFLOAD) in done
        if offloaded and instruction._replace(op=Op.RELOAD) not in done:
            fail(position, "reads saved tensors in the host tier: no reload before it")
        done.add(instruction)
    expected = _expected(schedule, stage)
    missing = expected - done
    if missing:
        raise ScheduleError(f"stage {stage}: missing {', '.join(sorted(map(str, missing)))}")
    for instruction in done - expected:
        if instruction.op not in (Op.OFFLOAD, Op.RELOAD):
            raise ScheduleError(f"stage {stage}: {instruction} has no partner stage")
        if instruction.op is Op.OFFLOAD and instruction._replace(op=Op.RELOAD) not in done:
            raise ScheduleError(f"stage {stage}: {instruction} is never reloaded, it leaks")


Needs = list[tuple[Instruction, str]]
"""Instructions that must have run before on the same stage, and why."""

NEEDED_BEFORE = {
    Op.SEND_F: (Op.FORWARD, "nothing was computed yet"),
    Op.OFFLOAD: (Op.FORWARD, "nothing was computed yet"),
    Op.SEND_B: (Op.BACKWARD, "nothing was computed yet"),
    Op.SEND_DW: (Op.BACKWARD, "nothing was computed yet"),
    Op.ADD_DW: (Op.RECV_DW, "nothing was received yet"),
    Op.RELOAD: (Op.OFFLOAD, "nothing lies in the host tier"),
}
RECEIVED = {
    Op.RECV_F: "reads its input",
    Op.RECV_B: "reads its gradient",
    Op.RECV_W: "reads the weights",
}


def _needs(schedule: Schedule, stage: int, instruction: Instruction) -> Needs:
    op, sequence, part = instruction.op, instruction.sequence, instruction.part
    if op in NEEDED_BEFORE:
        before, why = NEEDED_BEFORE[op]
        return [(instruction._replace(op=before, other=0), why)]
    if op is Op.ZERO_DKV and sequence > 0:
        number = schedule.layout.slice_of(part, 0, stage)
        if number is not None:
            before_zeros = Instruction(Op.BACKWARD, sequence - 1, 0, part, number)
            return [(before_zeros, "would lose gradients still to be read")]
    if op not in (Op.FORWARD, Op.BACKWARD):
        return []
    received = needed_receives(schedule, instruction)
    needs = [(receive, RECEIVED[receive.op]) for receive in received]
    if op is Op.FORWARD:
        return needs + _needs_of_forward(schedule, instruction)
    return needs + _needs_of_backward(schedule, instruction)


def _same_rank(schedule: Schedule, instruction: Instruction, index: int) -> list[Instruction]:
    """The same compute of another subsequence, if this rank computes (a slice of) it."""
    number = schedule.layout.slice_of(instruction.part, index, schedule.runs_on(instruction))
    return [] if number is None else [instruction._replace(subsequence=index, slice=number)]


def _needs_of_forward(schedule: Schedule, instruction: Instruction) -> Needs:
    if instruction.subsequence > 0:
        earlier = _same_rank(schedule, instruction, instruction.subsequence - 1)
        return [(forward, "reads its keys and values") for forward in earlier]
    sequence = instruction.sequence - schedule.layout.kv_sets
    if sequence < 0:
        return []
    return [(instruction._replace(op=Op.BACKWARD, sequence=sequence), "reuses its KV buffers")]


def _needs_of_backward(schedule: Schedule, instruction: Instruction) -> Needs:
    zeros = Instruction(Op.ZERO_DKV, instruction.sequence, 0, instruction.part)
    needs = [
        (instruction._replace(op=Op.FORWARD), "needs its forward"),
        (zeros, "adds to dK and dV"),
    ]
    if instruction.subsequence + 1 < schedule.layout.subsequences:
        later = _same_rank(schedule, instruction, instruction.subsequence + 1)
        needs += [(each, "needs the dK and dV of every later subsequence") for each in later]
    return needs


def _expected(schedule: Schedule, stage: int) -> set[Instruction]:
    """Every instruction that a stage must run: all but the copies."""
    expected: set[Instruction] = set()
    layout = schedule.layout
    for sequence in range(schedule.sequences):
        own = range(stage, schedule.layout.part_count, len(schedule.stages))
        helped = [msp_split.part for msp_split in layout.splits_helped_by(stage)]
        for part in (*own, *helped):
            expected.add(Instruction(Op.ZERO_DKV, sequence, 0, part))
            for index in range(schedule.layout.subsequences):
                number = layout.slice_of(part, index, stage)
                for op in (Op.FORWARD, Op.BACKWARD) if number is not None else ():
                    compute = Instruction(op, sequence, index, part, number or 0)
                    expected.add(compute)
                    for reads in (True, False):
                        expected.update(messages(layout, compute, reads=reads))
        expected |= _expected_msp(schedule, stage, sequence)
    return expected


def _expected_msp(schedule: Schedule, stage: int, sequence: int) -> set[Instruction]:
    """A stage's ends of the messages of weights and their gradients, of all MSP splits."""
    expected = set()
    layout = schedule.layout
    for msp_split in layout.msp_splits:
        part, first, last = msp_split.part, msp_split.subsequences[0], msp_split.subsequences[-1]
        owns = stage == schedule.stage_of(part)
        for number, rank in layout.helpers(msp_split):
            if owns or stage == rank:
                weights = Op.SEND_W if owns else Op.RECV_W
                ops = (weights, Op.RECV_DW, Op.ADD_DW) if owns else (weights, Op.SEND_DW)
                expected |= {Instruction(op, sequence, first, part, number) for op in ops}
                if not layout.keeps_weights(rank, msp_split):
                    expected.add(Instruction(weights, sequence, last, part, number, 1))
    return expected


def _sends_hosted_prefix(schedule: Schedule, instruction: Instruction) -> bool:
    """Whether K and V of earlier positions go with the weights, block by block."""
    op, _, index, part, _, again = instruction
    if op is not Op.SEND_W or again or not schedule.layout.kv_block_tokens:
        return False
    first = schedule.layout.split_of(part, index).subsequences[0]
    return schedule.layout.starts_tokens[first] > 0


def _check_rendezvous(schedule: Schedule) -> None:
    """Run all stages together: a send waits for its posted receive, a compute for its message.

    The slices of a subsequence wait for each other. Between two stages, sends and receives must
    meet in the same order. Messages of MSP weights have an order of their own. Hosted K and V of a
    split are received when the helper has nothing else to wait for.
    """
    posted: dict[tuple[int, int, bool], list[Instruction]] = {}
    arrived: set[Instruction] = set()
    gathered: set[Instruction] = set()
    awaited: set[Instruction] = set()

    def can_run(stage: int, instruction: Instruction) -> bool:
        if instruction.op in RECEIVES:
            pair = peer_of(schedule, instruction), stage, carries_msp_weights(instruction)
            posted.setdefault(pair, []).append(instruction)
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
            if _sends_hosted_prefix(schedule, instruction) and queue[0] not in awaited:
                return False
            arrived.add(queue.pop(0))
            return True
        missing = set(needed_receives(schedule, instruction)) - arrived
        if missing:
            awaited.update(missing if len(missing) == 1 else ())
            return False
        gathered.add(instruction)
        if instruction.op not in (Op.FORWARD, Op.BACKWARD):
            return True
        return gathered.issuperset(schedule.together(instruction))

    stopped = zip(schedule.stages, schedule.run(can_run), strict=True)
    stuck = [
        f"stage {stage} waits at {instructions[position]}"
        for stage, (instructions, position) in enumerate(stopped)
        if position < len(instructions)
    ]
    if stuck:
        raise ScheduleError("deadlock: " + "; ".join(stuck))
