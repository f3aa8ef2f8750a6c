"""Schedule + costs -> timeline, makespan, bubbles, bytes. Exact integers, no torch.

Every stage has three lanes: compute, D2H and H2D. Where copies do not overlap (a CPU) they take
the compute lane. A message leaves when its sender reaches the SEND and its receiver has posted
the receive; it then takes the link's latency and bytes over bandwidth.

The memory model has room for the D2H copy of one subsequence, and the engine keeps to that
(`Engine._forward`, `_backward`, `_reload`): a forward does not end, and a backward or a reload does
not begin, before the copies issued ahead of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from sppo.schedule.cost_table import ComputeKey, PartCosts, Sent, SliceCosts
from sppo.schedule.dependencies import Schedule, matching_receive, needed_receives
from sppo.schedule.instructions import RECEIVES, SENDS, Instruction, Op
from sppo.schedule.simulation import Cause, Event, Simulation, Wait


class _Stage:
    """The clocks, events and counts of one stage while the simulation runs."""

    def __init__(self, index: int) -> None:
        self.index = index
        self.lanes = {"compute": 0, "d2h": 0, "h2d": 0}
        self.busy = 0
        self.forward_end = 0
        self.events: list[Event] = []
        self.transfers: list[Event] = []
        self.waits: list[Wait] = []
        self.offloaded = 0
        self.reloaded: dict[Instruction, int] = {}
        self.memory: list[tuple[int, int]] = []
        self.host: list[tuple[int, int]] = []
        self.sent: list[Sent] = []

    def occupy(self, lane: str, instruction: Instruction, ready: int, duration: int) -> int:
        """Take a lane for `duration` once it and `ready` allow; returns the end."""
        start = max(ready, self.lanes[lane])
        self.lanes[lane] = start + duration
        if lane == "compute":
            self.busy += duration
        self.events.append(self._event(lane, instruction, start, duration))
        return start + duration

    def wait(self, instruction: Instruction, cause: Cause, start: int, end: int) -> int:
        """Compute stands still from `start` to `end`, if that is later; returns the later one."""
        if end <= start:
            return start
        self.waits.append(
            Wait(stage=self.index, instruction=instruction, cause=cause, start=start, end=end)
        )
        return end

    def wait_for_offloads(self, instruction: Instruction) -> int:
        """Compute stands still until all copies to the host have left; returns its clock."""
        clock = self.wait(instruction, Cause.OFFLOAD, self.lanes["compute"], self.offloaded)
        self.lanes["compute"] = clock
        return clock

    def transfer(self, instruction: Instruction, start: int, sent: Sent) -> int:
        """A message leaves at `start`; returns when it has arrived."""
        self.transfers.append(self._event("p2p", instruction, start, sent.time))
        self.sent.append(sent)
        return start + sent.time

    def _event(self, lane: str, instruction: Instruction, start: int, duration: int) -> Event:
        end = start + duration
        return Event(stage=self.index, lane=lane, instruction=instruction, start=start, end=end)


@dataclass(kw_only=True)
class _Clock:
    """Messages and slices between the stages of a simulation, and its costs."""

    schedule: Schedule
    costs: Sequence[PartCosts]
    slice_costs: SliceCosts
    posted: dict[Instruction, int] = field(default_factory=dict)
    arrived: dict[Instruction, int] = field(default_factory=dict)
    gathered: dict[Instruction, int] = field(default_factory=dict)

    def advance(self, stage: _Stage, instruction: Instruction) -> bool:
        """Run one instruction; False if the stage must wait for another."""
        op, now = instruction.op, stage.lanes["compute"]
        if op is Op.FORWARD or op is Op.BACKWARD:
            return self._compute(stage, instruction)
        if op in RECEIVES:
            self.posted[instruction] = now
        elif op in SENDS:
            receive = matching_receive(instruction)
            if receive not in self.posted:
                return False
            sent = message_cost(instruction, self.costs, self.slice_costs)
            start = max(now, self.posted[receive])
            self.arrived[receive] = stage.transfer(instruction, start, sent)
        elif op in (Op.OFFLOAD, Op.RELOAD):
            _copy(stage, instruction, self.costs[instruction.part])
        else:
            return self._compute(stage, instruction)
        return True

    def _compute(self, stage: _Stage, instruction: Instruction) -> bool:
        needed = needed_receives(self.schedule, instruction)
        if not all(receive in self.arrived for receive in needed):
            return False
        now = stage.lanes["compute"]
        received = max((self.arrived[receive] for receive in needed), default=now)
        reloaded = offloaded = 0
        if instruction.op is Op.BACKWARD:
            reloaded = stage.reloaded.get(Instruction(Op.RELOAD, *instruction[1:]), 0)
            offloaded = stage.offloaded
        begin = max(now, received, reloaded, offloaded)
        slices: tuple[Instruction, ...] = ()
        if instruction.op in (Op.FORWARD, Op.BACKWARD):
            slices = self.schedule.together(instruction)
        if len(slices) > 1:
            self.gathered[instruction] = begin
            if not all(each in self.gathered for each in slices):
                return False
            begin = max(self.gathered[each] for each in slices)
        now = stage.wait(instruction, Cause.MESSAGE, now, received)
        now = stage.wait(instruction, Cause.RELOAD, now, reloaded)
        now = stage.wait(instruction, Cause.OFFLOAD, now, offloaded)
        stage.wait(instruction, Cause.MSP_SLICES, now, begin)
        stage.occupy("compute", instruction, begin, self._duration(instruction))
        self._finish(stage, instruction)
        return True

    def _finish(self, stage: _Stage, instruction: Instruction) -> None:
        """Count the bytes at a compute's end; a forward ends no earlier than the copy ahead."""
        op, part, index = instruction.op, instruction.part, instruction.subsequence
        if op not in (Op.FORWARD, Op.BACKWARD):
            return
        end = stage.wait_for_offloads(instruction) if op is Op.FORWARD else stage.lanes["compute"]
        key = Op.FORWARD, part, index, instruction.slice
        saved = self.slice_costs.kept_bytes.get(key, self.costs[part].kept_bytes[index])
        stage.memory.append((end, saved if op is Op.FORWARD else -saved))
        if op is Op.FORWARD:
            stage.forward_end = end
        exchanged = self.slice_costs.exchanged.get(_compute_key(instruction))
        if exchanged is not None:
            stage.sent.append(exchanged)

    def _duration(self, instruction: Instruction) -> int:
        costs, index = self.costs[instruction.part], instruction.subsequence
        if instruction.op is Op.ZERO_DKV:
            return costs.clear
        known = self.slice_costs.compute.get(_compute_key(instruction))
        if known is not None or instruction.op is Op.ADD_DW:
            return known or 0
        return (costs.forward if instruction.op is Op.FORWARD else costs.backward)[index]


def message_cost(
    instruction: Instruction, costs: Sequence[PartCosts], slice_costs: SliceCosts
) -> Sent:
    """Messages, bytes and time of a send instruction."""
    first = instruction._replace(sequence=0) if instruction.sequence else instruction
    known = slice_costs.sent.get(first)
    if known is not None:
        return known
    cost, index = costs[instruction.part], instruction.subsequence
    return Sent(messages=1, bytes=cost.message_bytes[index], time=cost.message[index])


def _compute_key(instruction: Instruction) -> ComputeKey:
    return instruction.op, instruction.part, instruction.subsequence, instruction.slice


def simulate(
    schedule: Schedule, costs: Sequence[PartCosts], slice_costs: SliceCosts | None = None
) -> Simulation:
    """Run the schedule against costs (one entry per chunk). The schedule must have been checked."""
    assert len(costs) == schedule.layout.part_count
    stages = [_Stage(index) for index in range(len(schedule.stages))]
    slice_costs = slice_costs or SliceCosts()
    clock = _Clock(schedule=schedule, costs=costs, slice_costs=slice_costs)
    positions = schedule.run(lambda stage, instruction: clock.advance(stages[stage], instruction))
    assert positions == [len(instructions) for instructions in schedule.stages], "deadlock"
    return Simulation(
        events=tuple(event for stage in stages for event in stage.events),
        transfers=tuple(event for stage in stages for event in stage.transfers),
        waits=tuple(wait for stage in stages for wait in stage.waits),
        makespan=max(max(stage.lanes.values()) for stage in stages),
        forward_makespan=max(stage.forward_end for stage in stages),
        busy=tuple(stage.busy for stage in stages),
        kept_peak_bytes=tuple(_peak(stage.memory) for stage in stages),
        host_peak_bytes=tuple(_peak(stage.host) for stage in stages),
        messages=tuple(sum(sent.messages for sent in stage.sent) for stage in stages),
        message_bytes=tuple(sum(sent.bytes for sent in stage.sent) for stage in stages),
    )


def _copy(stage: _Stage, instruction: Instruction, costs: PartCosts) -> None:
    """OFFLOAD frees the device when its copy ends; RELOAD takes the device when it is issued."""
    index, out = instruction.subsequence, instruction.op is Op.OFFLOAD
    now = stage.lanes["compute"] if out else stage.wait_for_offloads(instruction)
    size = costs.offloaded_bytes[index]
    lane = ("d2h" if out else "h2d") if costs.overlapped_copies else "compute"
    duration = costs.d2h[index] if out else costs.h2d[index]
    end = stage.occupy(lane, instruction, now, duration)
    if out:
        stage.offloaded = end
        stage.host.append((now, size))
        stage.memory.append((end, -size))
    else:
        stage.memory.append((now, size))
        stage.host.append((end, -size))
        stage.reloaded[instruction] = end


def _peak(changes: list[tuple[int, int]]) -> int:
    """Largest running sum over time; at the same instant, in the order of the instructions."""
    total = peak = 0
    for _, change in sorted(changes, key=lambda entry: entry[0]):
        total += change
        peak = max(peak, total)
    assert total == 0, "bytes left behind"
    return peak
