"""One wandb run per launch, from its record, also for failed launches. Offline by default.

Project, group, tags and keys: `docs/wandb.md`.
"""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any
from unittest.mock import patch

import msgspec

from benchmarks.file_names import printable
from benchmarks.records import metrics
from benchmarks.records.record import Record
from sppo.config.sizes import limit_label

PROJECT = "sppo-bench"

IDENTITY = frozenset(("WANDB_RUN_ID", "WANDB_RESUME", "WANDB_SWEEP_ID", "WANDB_NAME"))
"""Variables that name one run, where every launch is a run."""

LONGEST_WORDS = 300
"""Characters of an error that are shown."""

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


TRACKER_ERRORS = (
    ImportError,
    OSError,
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    RuntimeError,
    AssertionError,
)
"""What wandb and its libraries raise on odd variables, places and servers, besides wandb.Error."""


def track(records: Sequence[Record], directory: Path) -> str | None:
    """Write every record as a wandb run. The group has the name of the run's folder.

    Returns an error in one line, or None: no fault of a tracker may lose a measurement.
    There is no network access unless WANDB_MODE asks for it.
    """
    arguments = list(map(printable, sys.argv))  # wandb sends them, and knows Unicode only
    with (
        patch.dict(os.environ, variables(os.environ), clear=True),
        patch.object(sys, "argv", arguments),
    ):
        try:
            import wandb
        except TRACKER_ERRORS as error:
            return _in_one_line(error)
        expected = (*TRACKER_ERRORS, wandb.Error)
        try:
            for record in records:
                _write(wandb, record, directory)
        except expected as error:
            return _in_one_line(error)
        finally:
            with suppress(*expected):
                wandb.teardown()
    return None


def _in_one_line(error: Exception) -> str:
    words = " ".join(str(error).split()) or type(error).__name__
    words = words if len(words) <= LONGEST_WORDS else f"{words[: LONGEST_WORDS - 1]}…"
    return f"wandb: {words}; the records are complete without it"


def variables(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment for wandb: an empty variable is an unset one, and no identity is shared.

    WANDB_RUN_ID gives one id to every launch, and a server merges them. WANDB_RESUME and
    WANDB_SWEEP_ID ask for a run that is there already.
    """
    kept = {
        name: value
        for name, value in environment.items()
        if name not in IDENTITY and (value or not name.startswith("WANDB_"))
    }
    return {**kept, "WANDB_SILENT": "true", "WANDB_CONSOLE": "off"}


def _write(wandb: Any, record: Record, directory: Path) -> None:
    """One run: config and summary of the record, one history line per step."""
    run = wandb.init(
        id=run_id(record, directory),
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
        values = {f"step/{key}": value for key, value in msgspec.to_builtins(step).items()}
        run.log(values, step=index)
    run.summary.update(summary(record))
    run.finish(exit_code=0 if record.status == "ok" else 1)


def run_id(record: Record, directory: Path) -> str:
    """The same at every try, so a launch that is sent twice is one run."""
    identity = f"{directory.name}/{record.row}/{record.launch}/{record.started}"
    return hashlib.sha256(identity.encode()).hexdigest()[:16]


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
