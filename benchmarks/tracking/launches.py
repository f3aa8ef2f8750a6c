"""One wandb run per launch, from its record, also for failed launches. Offline by default.

Project, group, tags and keys: `docs/wandb.md`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from benchmarks.records import metrics
from benchmarks.records.record import Record
from benchmarks.tracking.session import Session
from benchmarks.tracking.tracked_run import Heading, TrackedRun, content_id
from sppo.config.sizes import limit_label

CONFIG = (
    "row",
    "launch",
    "ranks",
    "workload",
    "settings",
    "settings_text",
    "grid",
    "text",
    "environment",
)
"""Fields of a record that are the config of its run."""

RESULTS = (
    "status",
    "reason",
    "step_seconds_median",
    "tokens_per_second_per_rank",
    "mfu_causal",
    "mfu_full",
    "hfu",
)
"""Fields of a record that are in the summary of its run."""


def track(records: Sequence[Record], directory: Path) -> str | None:
    """Write every record as a wandb run. The group has the name of the run's folder.

    Returns an error in one line, or None: no fault of a tracker may lose a measurement.
    """
    with Session() as session:
        for record in records:
            log_launch(record, directory, session)
    return session.error


def log_launch(record: Record, directory: Path, session: Session) -> TrackedRun:
    """One run: config and summary of the record, one history line per step."""
    run = TrackedRun(session, heading(record), directory)
    for index, step in enumerate(record.steps):
        values = {f"step/{key}": value for key, value in msgspec.to_builtins(step).items()}
        run.result(f"step {index}", values)
    run.end(summary(record), exit_code=0 if record.status == "ok" else 1)
    return run


def heading(record: Record) -> Heading:
    """Name, tags and config of the launch."""
    return Heading(
        run_id=run_id(record),
        name=f"{record.row}, launch {record.launch}",
        job_type=record.system,
        tags=tags(record),
        config=config(record),
    )


def run_id(record: Record) -> str:
    """The same at every try and for every copy, so a launch that is sent twice is one run."""
    return content_id(record.workload.name, record.row, record.launch, record.started)


def tags(record: Record) -> list[str]:
    """Tags to filter by: system, workload, status, limit."""
    limit = limit_label(record.device_memory_bytes)
    return [record.system, record.workload.name, record.status, f"memory-{limit}", "measured"]


def config(record: Record) -> dict[str, Any]:
    """Inputs of the launch: workload, settings with their source, text, machine."""
    values = msgspec.to_builtins(record)
    return {name: values[name] for name in CONFIG}


def summary(record: Record) -> dict[str, Any]:
    """Results of the launch. A number that a failed launch does not have is absent, never zero."""
    values: dict[str, Any] = {name: getattr(record, name) for name in RESULTS}
    for name in ("tracked_peak_bytes", "host_peak_bytes"):
        values[name] = metrics.largest_bytes([record], name)
    values["final_loss"] = record.steps[-1].loss if record.steps else None
    return {name: value for name, value in values.items() if value is not None}
