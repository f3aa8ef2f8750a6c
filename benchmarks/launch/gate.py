"""The gate: launches that did different work are no result. Names, folders and the exit code."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

from benchmarks.job import Status
from benchmarks.launch.progress import Display
from benchmarks.launch.recording import as_mismatch
from benchmarks.records import equal_work
from benchmarks.records import record as records
from benchmarks.records.record import Record
from benchmarks.records.standard import standard
from benchmarks.rows.row import slug_of

UNWANTED: frozenset[Status] = frozenset({"failed", "timeout", "mismatch"})
"""Statuses that are no result; the command then exits 1."""


def name_of(record: Record) -> str:
    """The name of a launch: "SPPO, launch 2"."""
    return f"{record.row}, launch {record.launch}"


def folder(record: Record) -> str:
    """The folder of a launch inside the folder of its run."""
    return f"{slug_of(record.row)}-{record.launch}"


def exit_code(done: Sequence[Record]) -> int:
    """0 if every launch ended in a result, else 1."""
    return int(any(record.status in UNWANTED for record in done))


def gate(
    directory: Path, done: Sequence[Record], display: Display, brief: Collection[str] = ()
) -> list[Record]:
    """The records, with status `mismatch` for launches that did different work, on disk too.

    brief: names of launches that had fewer steps to run. They are compared with each other.
    """
    fine = [record for record in done if record.status == "ok" and not record.is_reference]
    if not fine:
        return list(done)
    chosen = standard(done)
    tolerance = equal_work.TOLERANCE[done[0].workload.dtype]
    different: dict[str, equal_work.Difference] = {}
    for is_brief in (True, False):
        rows = {
            name_of(record): record.steps
            for record in fine
            if (name_of(record) in brief) == is_brief
        }
        different |= equal_work.equal_work(
            rows,
            chosen.steps,
            tolerance=tolerance,
            reference_tolerance=chosen.allowed,
            reference_name=chosen.name,
        )
    judged = []
    for record in done:
        difference = different.get(name_of(record))
        if difference is not None and record.status == "ok":
            allowed = tolerance
            if difference.against == chosen.name:
                allowed = chosen.allowed.get(difference.quantity, tolerance)
            reason = f"{difference} (allowed: {allowed:.3g} relative)"
            record = as_mismatch(record, reason)
            records.write(record, directory / folder(record) / records.FILE_NAME)
            display.note(f"{name_of(record)}: mismatch, {reason}")
        judged.append(record)
    return judged
