"""Schedule + costs -> timeline, makespan, bubbles, bytes. Exact integers, no torch.

Every stage has three lanes: compute, D2H and H2D. Where copies do not overlap (a CPU) they take
the compute lane. A message leaves when its sender reaches the SEND and its receiver has posted
the receive; it then takes the link's latency and bytes over bandwidth.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sppo.schedule import (
    RECEIVES,
    SENDS,
    Instruction,
    Op,
    Schedule,
    matching_receive,
    needed_receive,
)


@dataclass(frozen=True, kw_only=True)
class PartCosts:
    """Costs of one part, per subsequence: times in nanoseconds or any unit, sizes in bytes.

    `clear` is the time to zero dK and dV of a sequence.
    """

    forward: Sequence[int]
    backward: Sequence[int]
    clear: int
    kept_bytes: Sequence[int]
    offloaded_bytes: Sequence[int]
    d2h: Sequence[int]
    h2d: Sequence[int]
    message_bytes: Sequence[int]
    message: Sequence[int]
    overlapped_copies: bool


def unit_costs(subsequences: int) -> PartCosts:
    """Every forward one unit, every backward two, everything else free (the paper's table 3)."""
    nothing = [0] * subsequences
    return PartCosts(
        forward=[1] * subsequences,
        backward=[2] * subsequences,
        clear=0,
        kept_bytes=[1] * subsequences,
        offloaded_bytes=nothing,
        d2h=nothing,
        h2d=nothing,
        message_bytes=nothing,
        message=nothing,
        overlapped_copies=True,
    )


@dataclass(frozen=True, kw_only=True)
class Event:
    """One stretch of one lane of one stage."""

    stage: int
    lane: str
    name: str
    start: int
    end: int


@dataclass(frozen=True, kw_only=True)
class Simulation:
    """What a schedule would take. Bytes are exact; times are as good as the costs."""

    events: tuple[Event, ...]
    makespan: int
    forward_makespan: int
    busy: tuple[int, ...]
    kept_peak_bytes: tuple[int, ...]
    host_peak_bytes: tuple[int, ...]
    messages: tuple[int, ...]
    message_bytes: tuple[int, ...]

    @property
    def bubble_share(self) -> float:
        """Idle rank-time over ranks x makespan."""
        total = len(self.busy) * self.makespan
        return 1 - sum(self.busy) / total if total else 0.0


class _Stage:
    """The clocks and books of one stage while the simulation runs."""

    def __init__(self, index: int) -> None:
        self.index = index
        self.position = 0
        self.lanes = {"compute": 0, "d2h": 0, "h2d": 0}
        self.busy = 0
        self.forward_end = 0
        self.events: list[Event] = []
        self.fetched: dict[Instruction, int] = {}
        self.memory: list[tuple[int, int]] = []
        self.host: list[tuple[int, int]] = []
        self.messages = 0
        self.message_bytes = 0

    def occupy(self, lane: str, name: str, ready: int, duration: int) -> int:
        """Take a lane for `duration` once it and `ready` allow; returns the end."""
        start = max(ready, self.lanes[lane])
        end = start + duration
        self.lanes[lane] = end
        if lane == "compute":
            self.busy += duration
        self.events.append(Event(stage=self.index, lane=lane, name=name, start=start, end=end))
        return end


def simulate(schedule: Schedule, costs: Sequence[PartCosts]) -> Simulation:
    """Run the schedule against costs (one entry per part). The schedule must have been checked."""
    assert len(costs) == schedule.parts
    stages = [_Stage(index) for index in range(len(schedule.stages))]
    posted: dict[Instruction, int] = {}
    arrived: dict[Instruction, int] = {}
    moved = True
    while moved:
        moved = False
        for stage in stages:
            instructions = schedule.stages[stage.index]
            while stage.position < len(instructions):
                instruction = instructions[stage.position]
                cost = costs[instruction.part]
                if not _advance(schedule, stage, instruction, cost, posted, arrived):
                    break
                stage.position += 1
                moved = True
    assert all(stage.position == len(schedule.stages[stage.index]) for stage in stages), "deadlock"
    return Simulation(
        events=tuple(event for stage in stages for event in stage.events),
        makespan=max(max(stage.lanes.values()) for stage in stages),
        forward_makespan=max(stage.forward_end for stage in stages),
        busy=tuple(stage.busy for stage in stages),
        kept_peak_bytes=tuple(_peak(stage.memory) for stage in stages),
        host_peak_bytes=tuple(_peak(stage.host) for stage in stages),
        messages=tuple(stage.messages for stage in stages),
        message_bytes=tuple(stage.message_bytes for stage in stages),
    )


def _advance(
    schedule: Schedule,
    stage: _Stage,
    instruction: Instruction,
    costs: PartCosts,
    posted: dict[Instruction, int],
    arrived: dict[Instruction, int],
) -> bool:
    """Run one instruction if its message is there; False if the stage must wait for another."""
    op, index, now = instruction.op, instruction.subsequence, stage.lanes["compute"]
    if op in RECEIVES:
        posted[instruction] = now
    elif op in SENDS:
        receive = matching_receive(instruction)
        if receive not in posted:
            return False
        arrived[receive] = max(now, posted[receive]) + costs.message[index]
        stage.messages += 1
        stage.message_bytes += costs.message_bytes[index]
    elif op in (Op.OFFLOAD, Op.FETCH):
        _copy(stage, instruction, costs)
    else:
        ready = stage.fetched.get(instruction._replace(op=Op.FETCH), now)
        needed = needed_receive(schedule, instruction)
        if needed is not None:
            if needed not in arrived:
                return False
            ready = max(ready, arrived[needed])
        end = stage.occupy("compute", str(instruction), ready, _duration(costs, instruction))
        kept = {Op.FORWARD: costs.kept_bytes[index], Op.BACKWARD: -costs.kept_bytes[index]}
        stage.memory.append((end, kept.get(op, 0)))
        if op is Op.FORWARD:
            stage.forward_end = end
    return True


def _duration(costs: PartCosts, instruction: Instruction) -> int:
    match instruction.op:
        case Op.FORWARD:
            return costs.forward[instruction.subsequence]
        case Op.BACKWARD:
            return costs.backward[instruction.subsequence]
    return costs.clear


def _copy(stage: _Stage, instruction: Instruction, costs: PartCosts) -> None:
    """OFFLOAD frees the device when its copy ends; FETCH takes the device when it is issued."""
    index, now = instruction.subsequence, stage.lanes["compute"]
    size = costs.offloaded_bytes[index]
    out = instruction.op is Op.OFFLOAD
    lane = ("d2h" if out else "h2d") if costs.overlapped_copies else "compute"
    duration = costs.d2h[index] if out else costs.h2d[index]
    end = stage.occupy(lane, str(instruction), now, duration)
    if out:
        stage.host.append((now, size))
        stage.memory.append((end, -size))
    else:
        stage.memory.append((now, size))
        stage.host.append((end, -size))
        stage.fetched[instruction] = end


def _peak(changes: list[tuple[int, int]]) -> int:
    """Largest running sum over time; at the same instant, in the order of the instructions."""
    total = peak = 0
    for _, change in sorted(changes, key=lambda entry: entry[0]):
        total += change
        peak = max(peak, total)
    assert total == 0, "bytes left behind"
    return peak
