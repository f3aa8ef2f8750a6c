"""A simulated step as data: its computes, copies, messages and waits, and their sums."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from sppo.schedule.instructions import Instruction, Op


@dataclass(frozen=True, kw_only=True, slots=True)
class Event:
    """One stretch of one lane of one stage: "compute", "d2h", "h2d", or "p2p" for a message.

    A message belongs to its sender, from the time both sides are ready until it has arrived.
    """

    stage: int
    lane: str
    instruction: Instruction
    start: int
    end: int


class Cause(Enum):
    """Causes of a wait of a stage's compute."""

    MESSAGE = "message"
    RELOAD = "copy to the device"
    MSP_SLICES = "the other slices"
    OFFLOAD = "copy to the host"


@dataclass(frozen=True, kw_only=True, slots=True)
class Wait:
    """A stretch in which the compute lane of a stage waits before or after `instruction`.

    Causes at the same time are counted once, in the order of `Cause`: a reload from the time on at
    which all messages are there.
    """

    stage: int
    instruction: Instruction
    cause: Cause
    start: int
    end: int


@dataclass(frozen=True, kw_only=True)
class Simulation:
    """A simulated step. Bytes are exact; times are as good as the costs.

    Times are in the unit of the costs (nanoseconds for a hardware profile). `events` are computes
    and copies by stage, in the order of the instructions; `transfers` are the messages. Tuples of
    numbers have one entry per stage. `busy` is the time of the compute lane without waits.
    """

    events: tuple[Event, ...]
    transfers: tuple[Event, ...]
    waits: tuple[Wait, ...]
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

    @property
    def exposed_copies(self) -> tuple[int, ...]:
        """Per stage: compute waits for nothing but a copy, or the copy takes compute's own time."""
        exposed = [0] * len(self.busy)
        for event in self.events:
            if event.lane == "compute" and event.instruction.op in (Op.OFFLOAD, Op.RELOAD):
                exposed[event.stage] += event.end - event.start
        for stage, time in enumerate(self.waited(Cause.RELOAD, Cause.OFFLOAD)):
            exposed[stage] += time
        return tuple(exposed)

    def waited(self, *causes: Cause) -> tuple[int, ...]:
        """Per stage: the time that compute waits for one of `causes`."""
        waited = [0] * len(self.busy)
        for wait in self.waits:
            if wait.cause in causes:
                waited[wait.stage] += wait.end - wait.start
        return tuple(waited)
