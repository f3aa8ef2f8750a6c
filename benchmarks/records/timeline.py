"""Timelines of the ranks of a step, measured by the system itself or simulated."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from benchmarks.records import record as records
from benchmarks.records.plan_record import read_plan
from benchmarks.records.record import Record
from benchmarks.records.store import RecordError
from sppo.config.hardware import Hardware
from sppo.cost_model.plan_costs import simulate_plan
from sppo.plan.plan import Plan
from sppo.schedule.instructions import Instruction, parse_instruction


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """One instruction of a rank, from `start_ns` to `end_ns`. `lane` is one of `LANES`.

    `name` is the instruction as text, such as F0.3@1.
    """

    name: str
    lane: str
    start_ns: int
    end_ns: int

    @property
    def instruction(self) -> Instruction:
        """The event's instruction. Raises ValueError for a system without a schedule."""
        return parse_instruction(self.name)


LANES = ("compute", "d2h", "h2d", "p2p")

BUSY_LANES = ("compute", "d2h", "h2d")
"""Lanes that count as work. On a CPU a copy takes time from compute, as in the simulator."""


def read(directory: Path, ranks: int) -> list[list[Event]]:
    """The timelines of a launch, one per rank; empty unless every rank wrote one."""
    paths = [directory / f"timeline-{rank}.json" for rank in range(ranks)]
    if not all(path.is_file() for path in paths):
        return []
    return [msgspec.json.decode(path.read_bytes(), type=list[Event]) for path in paths]


def bubble_share(
    timelines: Sequence[Sequence[Event]], *, overlapped_copies: bool = False
) -> float | None:
    """Idle rank-time over ranks x makespan; None without events. The ranks share one clock.

    A rank is idle while it waits for a message and between instructions. With
    `overlapped_copies` only computes are work, because a copy runs at the same time.
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
    """First start and last end over all ranks, in nanoseconds of one clock."""
    events = [event for timeline in timelines for event in timeline]
    return min(e.start_ns for e in events), max(e.end_ns for e in events)


def simulated(plan: Plan, profile: Hardware) -> list[list[Event]]:
    """The simulated step: one timeline per pipeline stage, from 0 ns on.

    Copies have lanes of their own, also on hardware where they take time from compute. A message
    lies in the lane of its sender, from the time both sides are ready until arrival.
    """
    simulation = simulate_plan(plan, profile)
    timelines: list[list[Event]] = [[] for _ in range(plan.pipeline_parallel)]
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
class MeasuredLaunch:
    """A launch with its plan and the timelines of its last step, one per rank."""

    record: Record
    plan: Plan
    timelines: Sequence[Sequence[Event]]


def find_measured(run_directory: Path) -> MeasuredLaunch:
    """The first launch in a run's folder with a timeline. Raises RecordError without one.

    Only a system that follows a plan writes timelines.
    """
    records.read_all(run_directory)
    paths = sorted(run_directory.glob(f"*/{records.FILE_NAME}"))
    return measured_in(run_directory, [(path.parent, records.read(path)) for path in paths])


def measured_in(run_directory: Path, launches: Sequence[tuple[Path, Record]]) -> MeasuredLaunch:
    """The first of these launches of a run with a timeline. Raises RecordError without one.

    launches: folder and record of each.
    """
    for folder, record in launches:
        if record.status != "ok":
            continue
        timelines = read(folder, record.ranks)
        if not timelines or not all(timelines):
            continue
        try:
            plan = read_plan(record.plan or {})
        except msgspec.ValidationError as error:
            raise RecordError(
                f"{folder / records.FILE_NAME}: its plan is not of this version ({error}); "
                "run the workload again"
            ) from None
        return MeasuredLaunch(record=record, plan=plan, timelines=timelines)
    raise RecordError(
        f"{run_directory}: no launch with status ok has timeline-*.json; make one: "
        "sppo-bench run WORKLOAD --systems sppo"
    )
