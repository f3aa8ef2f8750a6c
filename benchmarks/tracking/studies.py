"""Measured studies as wandb runs: a step for every result, at the end the printed table.

The name of a number begins with its label, such as `measured/step_seconds/sppo`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from benchmarks.launch.run_file import RunFile
from benchmarks.records import metrics
from benchmarks.records.record import Record, grouped
from benchmarks.reporting import tables
from benchmarks.reporting.tables import Summary, size_words
from benchmarks.reporting.text_table import Column, number
from benchmarks.rows import tuning
from benchmarks.rows.row import slug
from benchmarks.rows.tuning import GridPoint, Tuning
from benchmarks.studies import ablation_report, longest_result, sweep_report
from benchmarks.studies.ablation import PolicyResult
from benchmarks.studies.limit import LimitTrial
from benchmarks.studies.longest_result import LongestRow, LongestTrial
from benchmarks.studies.sweep import Quantity, SweepPoint
from benchmarks.tracking.tracked_run import Heading, TrackedRun, cells, content_id
from sppo.config.sizes import limit_label, limit_words

MEASURED = "measured"

TABLE = "table"
"""The name of the printed table in a wandb run."""

ABLATION_LABEL = "measured; predicted, offloaded, recomputed: computed"

LIMIT_COLUMNS: tuple[Column[LimitTrial | Record], ...] = (
    ("device memory", lambda trial: limit_words(trial.device_memory_bytes)),
    ("status", lambda trial: trial.status),
    ("reason", lambda trial: trial.reason),
)


def kind_of(plan: RunFile) -> str:
    """The command that made a folder; "tune" for `run --tune`."""
    return "tune" if plan.command == "run" and "--tune" in plan.arguments else plan.command


def heading(plan: RunFile, directory: Path) -> Heading:
    """The head of a study's run, from the plan in its folder. Older plans have no start time."""
    workload, kind = plan.workload, kind_of(plan)
    labels = ("emulated", "simulated") if kind in ("emulate", "paper") else (MEASURED,)
    limit = limit_label(workload.device_memory_bytes)
    return Heading(
        run_id=content_id(
            plan.command, *plan.arguments, workload.name, plan.started or directory.name
        ),
        name=f"{kind} {workload.name}",
        job_type=kind,
        tags=(kind, workload.name, f"memory-{limit}", *labels),
        config={
            "command": plan.command,
            "arguments": plan.arguments,
            "workload": msgspec.to_builtins(workload),
            "settings": plan.rows,
            "environment": plan.environment,
        },
    )


@dataclass(kw_only=True)
class LaunchFeed:
    """Logs launches, each as a step. series: the name of a launch's numbers."""

    run: TrackedRun
    series: Callable[[Record], str]
    best: dict[str, float] = field(default_factory=dict)

    def __call__(self, record: Record) -> None:
        name = slug(self.series(record))
        seconds = record.step_seconds_median
        if seconds is not None:
            self.best[name] = min(seconds, self.best.get(name, seconds))
        self.run.result(
            f"{slug(record.row)}-{record.launch}, {record.started}",
            {
                "result/row": record.row,
                "result/launch": record.launch,
                "result/status": record.status,
                "result/settings": record.settings_text,
                "result/device_memory_bytes": record.device_memory_bytes,
                f"measured/step_seconds/{name}": seconds,
                f"measured/best_step_seconds/{name}": self.best.get(name),
                f"measured/tracked_peak_bytes/{name}": metrics.largest_bytes(
                    [record], "tracked_peak_bytes"
                ),
            },
        )


def by_system(record: Record) -> str:
    """A grid's points are one series a system."""
    return record.system


def by_row(record: Record) -> str:
    """An ablation's policies are rows."""
    return record.row


def end_tune(run: TrackedRun, done: Sequence[Record], exit_code: int) -> None:
    """The table of all points, and the fastest of each system."""
    systems = grouped(done, "system").items()
    points = {system: tuning.of_records(launches).points for system, launches in systems}
    run.result(
        TABLE, {TABLE: cells(tables.COLUMNS, tables.summaries(done), MEASURED)}, by_values=True
    )
    run.end(_fastest(points), exit_code=exit_code)


def _fastest(points: Mapping[str, Sequence[GridPoint]]) -> dict[str, object]:
    """The fastest point of each system."""
    summary: dict[str, object] = {}
    for system, grid in points.items():
        best = tuning.fastest(grid)
        if best is not None:
            summary[f"measured/best_step_seconds/{system}"] = best.step_seconds_median
            summary[f"best_settings/{system}"] = best.settings_text
    return summary


TUNING_COLUMNS: tuple[Column[tuple[str, GridPoint]], ...] = (
    ("system", lambda item: item[0]),
    ("settings", lambda item: item[1].settings_text),
    ("status", lambda item: item[1].status),
    ("launches", lambda item: str(item[1].launches)),
    ("step s, median", lambda item: number(item[1].step_seconds_median, "{:.3f}")),
    ("peak device", lambda item: size_words(item[1].tracked_peak_bytes)),
)


def log_grids(run: TrackedRun, grids: Tuning) -> None:
    """A file of measured grids: a step for every point, and the fastest of each system."""
    points = [(system, point) for system, grid in grids.systems.items() for point in grid.points]
    for system, point in points:
        values = {
            "result/system": system,
            "result/settings": point.settings_text,
            "result/status": point.status,
            f"measured/step_seconds/{system}": point.step_seconds_median,
            f"measured/tracked_peak_bytes/{system}": point.tracked_peak_bytes,
        }
        run.result(f"{system}, {point.settings_text}", values)
    run.result(TABLE, {TABLE: cells(TUNING_COLUMNS, points, MEASURED)}, by_values=True)
    run.end(_fastest({name: grid.points for name, grid in grids.systems.items()}), exit_code=0)


def log_point(run: TrackedRun, quantity: Quantity, point: SweepPoint) -> None:
    """A value of a sweep, with the numbers of every row."""
    peer = sweep_report.best_peer(point.rows)
    values: dict[str, object] = {
        "result/value": sweep_report.value_words(quantity, point),
        "result/device_memory_bytes": point.device_memory_bytes,
        "result/sequences_per_step": point.sequences_per_step,
        "measured/sppo_over_best_peer": None if peer is None else peer.sppo_speed_up,
    }
    for row in point.rows:
        name = slug(row.row)
        seconds = None if row.step_seconds is None else row.step_seconds.median
        values[f"result/status/{name}"] = row.status
        values[f"result/settings/{name}"] = row.settings
        values[f"measured/step_seconds/{name}"] = seconds
        values[f"measured/tracked_peak_bytes/{name}"] = row.tracked_peak_bytes
    run.result(f"value {point.label}", values, by_values=True)


def end_sweep(
    run: TrackedRun, quantity: Quantity, points: Sequence[SweepPoint], exit_code: int
) -> None:
    """The table by value and row, and the value at which SPPO is the fastest over the best peer."""
    rows = [(point, row) for point in points for row in point.rows]
    columns: list[Column[tuple[SweepPoint, Summary]]] = [
        (
            sweep_report.NAMES[quantity],
            lambda item: sweep_report.value_words(quantity, item[0]),
        )
    ]
    columns += [_of_row(column) for column in tables.COLUMNS]
    run.result(TABLE, {TABLE: cells(columns, rows, MEASURED)}, by_values=True)
    peers = [(peer, point) for point in points if (peer := sweep_report.best_peer(point.rows))]
    best = max(peers, key=lambda item: item[0].sppo_speed_up or 0.0, default=None)
    summary: dict[str, object] = {"values": len(points)}
    if best is not None:
        summary["measured/best_sppo_over_best_peer"] = best[0].sppo_speed_up
        summary["best_value"] = sweep_report.value_words(quantity, best[1])
    run.end(summary, exit_code=exit_code)


def _of_row(column: Column[Summary]) -> Column[tuple[SweepPoint, Summary]]:
    title, cell = column
    return title, lambda item: cell(item[1])


@dataclass(kw_only=True)
class TrialFeed:
    """Logs the trials of a search for the longest sequence, each as a step."""

    run: TrackedRun
    count: int = 0
    best: dict[str, int] = field(default_factory=dict)

    def __call__(self, trial: LongestTrial) -> None:
        name = slug(trial.row)
        self.count += 1
        longest = self.best.get(name, 0)
        self.best[name] = max(longest, trial.tokens if trial.status == "ok" else 0)
        self.run.result(
            f"trial {self.count}",
            {
                "result/row": trial.row,
                "result/settings": trial.settings_text,
                "result/tokens": trial.tokens,
                "result/status": trial.status,
                "result/launched": trial.launched,
                f"measured/longest_tokens/{name}": self.best[name],
                f"measured/peak_device_bytes/{name}": trial.peak_device_bytes,
            },
            by_values=True,
        )


def end_longest(run: TrackedRun, rows: Sequence[LongestRow], exit_code: int) -> None:
    """The table, and the longest of each row."""
    run.result(TABLE, {TABLE: cells(longest_result.columns(rows), rows, MEASURED)}, by_values=True)
    summary: dict[str, object] = {
        f"measured/longest_tokens/{slug(row.row)}": row.longest_tokens for row in rows
    }
    run.end(summary, exit_code=exit_code)


def end_limit(run: TrackedRun, trials: Sequence[LimitTrial | Record], exit_code: int) -> None:
    """The table of the trials, and the least device memory that runs."""
    sizes = [trial.device_memory_bytes for trial in trials if trial.status == "ok"]
    least = min((size for size in sizes if size is not None), default=None)
    run.result(TABLE, {TABLE: cells(LIMIT_COLUMNS, trials, MEASURED)}, by_values=True)
    run.end({"measured/device_memory_bytes": least}, exit_code=exit_code)


def end_ablation(run: TrackedRun, results: Sequence[PolicyResult], exit_code: int) -> None:
    """The table of the policies, and the fastest."""
    run.result(
        TABLE, {TABLE: cells(ablation_report.COLUMNS, results, ABLATION_LABEL)}, by_values=True
    )
    timed = [(result.step_seconds.median, result) for result in results if result.step_seconds]
    best = min(timed, key=lambda item: item[0], default=None)
    summary: dict[str, object] = {}
    if best is not None:
        summary["measured/best_step_seconds"], summary["best_policy"] = best[0], best[1].policy
    for result in results:
        summary[f"measured/relative_time/{result.policy}"] = result.relative_time
    run.end(summary, exit_code=exit_code)
