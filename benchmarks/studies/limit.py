"""The device memory of a workload by its rule, from enforced launches.

The rule: the least at which Megatron-Core in SPPO's layout, with full recompute, still runs. That
is the paper's operating point.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import msgspec

from benchmarks.job import Status
from benchmarks.launch.options import Options
from benchmarks.launch.preparing import prepare, remove_inputs
from benchmarks.launch.progress import Display
from benchmarks.launch.ranks.team import ALONE, Team
from benchmarks.launch.run import launch_row
from benchmarks.records import store
from benchmarks.records.provenance import origin
from benchmarks.records.record import Record
from benchmarks.rows.assign import assign
from benchmarks.rows.row import ROWS
from benchmarks.studies.publish import SavedStudy
from sppo.config.sizes import MIB
from sppo.config.workload import Workload

SCHEMA = "sppo-limit/1"
RULE = "the least MiB at which Megatron-Core in SPPO's layout with full recompute still runs"
SEARCH_MIB = 32
"""Range of the search above the tracked peak: the untracked memory of kernels and messages."""


class LimitTrial(msgspec.Struct, frozen=True, kw_only=True):
    """One enforced launch. device_memory_bytes: its limit, None without one."""

    device_memory_bytes: int | None
    status: Status
    reason: str = ""


class DeviceLimit(SavedStudy, frozen=True, kw_only=True):
    """The result of the search. tracked_peak_bytes: of the fullest rank without a limit."""

    schema: str = SCHEMA
    rule: str = RULE
    tracked_peak_bytes: int
    trials: list[LimitTrial]


class NoLimit(ValueError):
    """The baseline did not run at all. The message gives its status and reason."""


def path_of(workload: str) -> Path:
    """The published file of a workload's limit."""
    return store.published_directory() / "limits" / f"{workload}.json"


def search(
    workload: Workload,
    directory: Path,
    display: Display,
    on_record: Callable[[Record], None] | None = None,
    team: Team = ALONE,
) -> DeviceLimit:
    """Launch without a limit, then bisect whole MiB up to SEARCH_MIB above the tracked peak.

    directory: gets the records. on_record: gets every record at once. team: the other nodes.
    Raises NoLimit if the baseline does not run without a limit, or not with the largest one.
    """
    options = Options(launches=1, measured_steps=1, warmup_steps=0)
    free = workload.with_device_memory(None)
    inputs = prepare(free, options, directory, team)
    row = next(row for row in ROWS if row.choosing == "same layout")
    configuration = assign(row, free)
    done: list[Record] = []

    def runs(size_mib: int | None) -> bool:
        limit_bytes = None if size_mib is None else size_mib * MIB
        limited = replace(inputs, workload=free.with_device_memory(limit_bytes))
        # Every trial has a folder of its own.
        trial = replace(
            configuration, row=replace(row, label=f"{row.label} {len(done):02d}", name="")
        )
        record = launch_row(limited, trial, 1, options, display)
        done.append(record)
        if on_record is not None:
            on_record(record)
        if record.status not in ("ok", "oom"):
            raise NoLimit(f"{row.label} ended as {record.status}, not by memory: {record.reason}")
        return record.status == "ok"

    try:
        if not runs(None):
            raise NoLimit(f"{row.label} does not run without a limit: {done[0].reason}")
        peak_bytes = max(memory.tracked_peak_bytes or 0 for memory in done[0].memory)
        least = peak_bytes // MIB
        sizes = range(least + 1, least + SEARCH_MIB + 1)
        if not runs(sizes[-1]):
            raise NoLimit(f"{row.label} does not run with {sizes[-1]} MiB: {done[-1].reason}")
        limit_mib = sizes[bisect_left(sizes[:-1], True, key=runs)]
    finally:
        remove_inputs(inputs)
    return DeviceLimit(
        workload=workload.name,
        device_memory_bytes=limit_mib * MIB,
        tracked_peak_bytes=peak_bytes,
        trials=[msgspec.convert(record, LimitTrial, from_attributes=True) for record in done],
        **origin(done[0]),
    )
