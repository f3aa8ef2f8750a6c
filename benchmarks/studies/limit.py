"""The rule for a workload's device memory: the least at which Megatron-Core in SPPO's own layout,
with full recompute, still runs (the paper's operating point). Found by enforced launches.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import msgspec

from benchmarks.job import Status
from benchmarks.launch.progress import Display
from benchmarks.launch.run import Options, launch_row, new_directory, prepare, remove_inputs
from benchmarks.records import store
from benchmarks.records.provenance import machine
from benchmarks.records.record import Record
from benchmarks.rows.assign import assign
from benchmarks.rows.row import ROWS, Configuration
from sppo.config.sizes import MIB
from sppo.config.workload import Workload

SCHEMA = "sppo-limit/1"
RULE = "the least MiB at which Megatron-Core in SPPO's layout with full recompute still runs"
SEARCH_MIB = 32
"""How far above the tracked peak the search looks: what a kernel or a message takes unseen."""


class Trial(msgspec.Struct, frozen=True, kw_only=True):
    """One enforced launch."""

    device_memory_bytes: int | None
    status: Status
    reason: str = ""


class Limit(msgspec.Struct, frozen=True, kw_only=True):
    """The outcome of the search, committed beside the records."""

    schema: str = SCHEMA
    workload: str
    rule: str = RULE
    device_memory_bytes: int
    tracked_peak_bytes: int
    machine: str
    commit: str
    date: str
    trials: list[Trial]


class NoLimit(ValueError):
    """The baseline did not run at all; the message says how it ended."""


def path_of(workload: str) -> Path:
    return store.published_directory() / "limits" / f"{workload}.json"


def search(workload: Workload, parent: Path, display: Display) -> Limit:
    """Launch without a limit, then bisect whole MiB between its tracked peak and SEARCH_MIB more.

    Raises NoLimit if it does not run without a limit or with the largest one.
    """
    options = Options(launches=1, measured_steps=1, warmup_steps=0)
    free = workload.with_device_memory(None)
    inputs = prepare(free, options, new_directory(parent, workload))
    row = next(row for row in ROWS if row.choosing == "same layout")
    assignment = assign(row, free)
    done: list[Record] = []

    def runs(size_mib: int | None) -> bool:
        limited = free.with_device_memory(None if size_mib is None else size_mib * MIB)
        record = launch_row(
            replace(inputs, workload=limited), _named(assignment, len(done)), 1, options, display
        )
        done.append(record)
        if record.status not in ("ok", "oom"):
            raise NoLimit(f"{row.label} ended as {record.status}, not by memory: {record.reason}")
        return record.status == "ok"

    try:
        if not runs(None):
            raise NoLimit(f"{row.label} does not run without a limit: {done[0].reason}")
        peak = max(memory.tracked_peak_bytes or 0 for memory in done[0].memory)
        low, high = peak // MIB, peak // MIB + SEARCH_MIB
        if not runs(high):
            raise NoLimit(f"{row.label} does not run with {high} MiB: {done[-1].reason}")
        while high - low > 1:
            middle = (low + high) // 2
            if runs(middle):
                high = middle
            else:
                low = middle
    finally:
        remove_inputs(inputs)
    return Limit(
        workload=workload.name,
        device_memory_bytes=high * MIB,
        tracked_peak_bytes=peak,
        machine=machine(done[0]),
        commit=done[0].environment.get("commit") or "unknown",
        date=done[0].started[:10],
        trials=[
            Trial(
                device_memory_bytes=record.device_memory_bytes,
                status=record.status,
                reason=record.reason,
            )
            for record in done
        ],
    )


def _named(assignment: Configuration, number: int) -> Configuration:
    """Every trial has a folder of its own."""
    row = replace(assignment.row, label=f"{assignment.row.label} {number:02d}")
    return replace(assignment, row=row)


def save(limit: Limit) -> Path:
    path = path_of(limit.workload)
    path.parent.mkdir(parents=True, exist_ok=True)
    store.write_bytes(path, store.to_json(limit))
    return path
