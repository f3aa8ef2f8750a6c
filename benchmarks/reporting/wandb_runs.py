"""One wandb run per launch, written from its record: failed ones too. Offline unless asked.

What project, group, tags and keys mean is told in `docs/wandb.md`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from benchmarks.records.record import Record
from sppo.config.sizes import limit_label

PROJECT = "sppo-bench"


def track(records: Sequence[Record], directory: Path) -> str | None:
    """Write every record as a wandb run of the group named like the run's folder.

    Returns a line that says what went wrong, or None: a tracker must not cost a measurement.
    Nothing is asked of the network unless WANDB_MODE says so.
    """
    import wandb

    try:
        with _quiet():
            for record in records:
                _write(wandb, record, directory)
            wandb.teardown()
    except (wandb.Error, OSError) as error:
        return f"wandb: {' '.join(str(error).split())}; the records are complete without it"
    return None


@contextmanager
def _quiet() -> Iterator[None]:
    """wandb's own switches for silence, as they were afterwards."""
    before = {name: os.environ.get(name) for name in ("WANDB_SILENT", "WANDB_CONSOLE")}
    os.environ.update(WANDB_SILENT="true", WANDB_CONSOLE="off")
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _write(wandb: Any, record: Record, directory: Path) -> None:
    """One run: config and summary from the record, one history line per step."""
    run = wandb.init(
        project=os.environ.get("WANDB_PROJECT", PROJECT),
        group=os.environ.get("WANDB_RUN_GROUP", directory.name),
        name=f"{record.row}, launch {record.launch}",
        job_type=record.system,
        tags=tags(record),
        config=config(record),
        dir=os.environ.get("WANDB_DIR", str(directory)),
        mode=os.environ.get("WANDB_MODE", "offline"),
        reinit="finish_previous",
        settings=wandb.Settings(
            console="off",
            silent=True,
            save_code=False,
            disable_git=True,
            disable_code=True,
            x_disable_stats=True,
            x_disable_meta=True,
        ),
    )
    for index, step in enumerate(record.steps):
        values = msgspec.to_builtins(step)
        run.log({f"step/{key}": value for key, value in values.items()}, step=index)
    run.summary.update(summary(record))
    run.finish(exit_code=0 if record.status == "ok" else 1)


def tags(record: Record) -> list[str]:
    """What one filters by in wandb."""
    limit = limit_label(record.device_memory_bytes)
    return [record.system, record.workload.name, record.status, f"memory-{limit}", "measured"]


def config(record: Record) -> dict[str, Any]:
    """What went in: workload, settings and where they come from, machine."""
    return {
        "row": record.row,
        "launch": record.launch,
        "ranks": record.ranks,
        "workload": msgspec.to_builtins(record.workload),
        "settings": record.settings,
        "settings_text": record.settings_text,
        "grid": record.grid,
        "text": msgspec.to_builtins(record.text),
        "environment": record.environment,
    }


def summary(record: Record) -> dict[str, Any]:
    """What came out; what a failed launch does not have is absent, never zero."""
    tracked = [memory.tracked_peak_bytes for memory in record.memory]
    host = [memory.host_peak_bytes for memory in record.memory]
    last = record.steps[-1] if record.steps else None
    values: Mapping[str, Any] = {
        "status": record.status,
        "reason": record.reason,
        "step_seconds_median": record.step_seconds_median,
        "tokens_per_second_per_rank": record.tokens_per_second_per_rank,
        "mfu_causal": record.mfu_causal,
        "mfu_full": record.mfu_full,
        "hfu": record.hfu,
        "tracked_peak_bytes": max((peak for peak in tracked if peak is not None), default=None),
        "host_peak_bytes": max((peak for peak in host if peak is not None), default=None),
        "final_loss": last.loss if last else None,
    }
    return {name: value for name, value in values.items() if value is not None}
