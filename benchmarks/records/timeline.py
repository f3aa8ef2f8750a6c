"""What the ranks did and when: as a system tells it, or as the simulator says it would be."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from benchmarks.records import record as records
from benchmarks.records.plan_record import read_plan
from benchmarks.records.record import Record
from benchmarks.records.store import RecordError
from sppo.schedule.instructions import Instruction, parse_instruction

if TYPE_CHECKING:
    from sppo.config.hardware import Hardware
    from sppo.plan.plan import Plan


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """What a rank did from `start_ns` to `end_ns`; `lane` is one of LANES.

    `name` is an instruction of a schedule as text, such as F0.3@1.
    """

    name: str
    lane: str
    start_ns: int
    end_ns: int

    @property
    def instruction(self) -> Instruction:
        """Raises ValueError if the system that wrote the event follows no schedule."""
        return parse_instruction(self.name)


LANES = ("compute", "d2h", "h2d", "p2p")

BUSY_LANES = ("compute", "d2h", "h2d")
"""Where a copy takes the compute's time (a CPU) it counts as work, as in the simulator."""


def read(directory: Path, ranks: int) -> list[list[Event]]:
    """The timelines of a launch, one per rank; empty unless every rank wrote one."""
    paths = [directory / f"timeline-{rank}.json" for rank in range(ranks)]
    if not all(path.is_file() for path in paths):
        return []
    return [msgspec.json.decode(path.read_bytes(), type=list[Event]) for path in paths]


def bubble_share(
    timelines: Sequence[Sequence[Event]], *, overlapped_copies: bool = False
) -> float | None:
    """Idle rank-time over ranks x makespan, of the ranks of one host (one clock); None if unknown.

    Waiting for a message is idle time; so are the moments between instructions. With
    `overlapped_copies` only computes are work: a copy beside one would count twice.
    """
    if not any(timelines):
        return None
    start, end = span_ns(timelines)
    lanes = ("compute",) if overlapped_copies else BUSY_LANES
    busy: int = sum(
        event.end_ns - event.start_ns
        for timeline in timelines
        for event in timeline
        if event.lane in lanes
    )
    return 1 - busy / (len(timelines) * (end - start))


def span_ns(timelines: Sequence[Sequence[Event]]) -> tuple[int, int]:
    """First start and last end over all ranks, in nanoseconds of their one clock."""
    events = [event for timeline in timelines for event in timeline]
    return min(e.start_ns for e in events), max(e.end_ns for e in events)


def simulated(plan: Plan, profile: Hardware) -> list[list[Event]]:
    """The simulated step, one timeline per pipeline stage, from 0 ns on.

    Copies lie in their own lanes also where they take compute's time; a message lies in the lane of
    its sender, from the moment both sides are ready until it has arrived.
    """
    from sppo.cost_model.msp import plan_slice_costs
    from sppo.cost_model.plan_costs import plan_costs
    from sppo.schedule.build import build_schedule
    from sppo.schedule.simulate import simulate

    schedule, costs = build_schedule(plan), plan_costs(plan, profile)
    slice_costs = plan_slice_costs(plan, profile)
    simulation = simulate(schedule, costs, slice_costs)
    timelines: list[list[Event]] = [[] for _ in schedule.stages]
    for event in (*simulation.events, *simulation.transfers):
        timelines[event.stage].append(
            Event(
                name=str(event.instruction),
                lane=event.instruction.op.lane,
                start_ns=event.start,
                end_ns=event.end,
            )
        )
    return timelines


@dataclass(frozen=True, kw_only=True)
class Measured:
    """A launch of SPPO that told what its ranks did in its last step, and the plan it followed."""

    record: Record
    plan: Plan
    timelines: Sequence[Sequence[Event]]


def find_measured(run_directory: Path) -> Measured:
    """The first launch in a run's folder that has a timeline. Raises RecordError.

    Only a system that follows a plan writes one.
    """
    records.read_all(run_directory)
    for path in sorted(run_directory.glob(f"*/{records.FILE_NAME}")):
        record = records.read(path)
        if record.status != "ok":
            continue
        timelines = read(path.parent, record.ranks)
        if not timelines or not all(timelines):
            continue
        try:
            plan = read_plan(record.plan or {})
        except msgspec.ValidationError as error:
            raise RecordError(
                f"{path}: its plan is not of this version ({error}); run the workload again"
            ) from None
        return Measured(record=record, plan=plan, timelines=timelines)
    raise RecordError(
        f"{run_directory}: no launch of sppo that ended ok and wrote timeline-*.json; make one: "
        "sppo-bench run WORKLOAD --systems sppo"
    )
