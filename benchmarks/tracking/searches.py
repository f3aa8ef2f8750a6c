"""Emulated searches, and the paper's emulated points, as wandb runs.

Peaks are emulated and times are simulated; the name of a number begins with that word.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from benchmarks.emulation.result import Emulation, RoleReport
from benchmarks.emulation.search import EmulationTrial, SearchResult
from benchmarks.emulation.tables import size
from benchmarks.launch.progress import Lines
from benchmarks.paper import boundaries_report
from benchmarks.paper.verdicts import LongestVerdict, PaperPoints, Verdict
from benchmarks.reporting.text_table import NO_NUMBER, Column, number
from benchmarks.rows.row import slug
from benchmarks.tracking.studies import TABLE
from benchmarks.tracking.tracked_run import TrackedRun, cells
from sppo.config.sizes import length_name

LABEL = "emulated; seconds a step: simulated"

TRIAL_COLUMNS: tuple[Column[EmulationTrial], ...] = (
    ("settings", lambda trial: trial.settings_text),
    ("tokens", lambda trial: length_name(trial.tokens)),
    ("status", lambda trial: trial.status),
    ("peak", lambda trial: size(trial.peak_device_bytes)),
    ("role", lambda trial: trial.limiting_role or ""),
    ("seconds a step", lambda trial: number(trial.step_seconds, "{:,.1f}")),
    ("model", lambda trial: trial.emulated or NO_NUMBER),
)

ROLE_COLUMNS: tuple[Column[RoleReport], ...] = (
    ("role", lambda role: role.role),
    ("ranks", lambda role: str(role.ranks)),
    ("status", lambda role: role.status),
    ("device peak", lambda role: size(role.peak_device_bytes)),
    ("host peak", lambda role: size(role.peak_host_bytes)),
    ("FLOPs", lambda role: number(role.flops, "{:,}")),
    ("reason", lambda role: role.reason),
)


class SearchLines(Lines):
    """The lines of a search. A line follows every event, so `watch` is called after each.

    Only in the main thread, which keeps the trials.
    """

    def __init__(self, watch: Callable[[], None]) -> None:
        super().__init__()
        self.watch = watch

    def note(self, text: str) -> None:
        """Print a line, and look for new trials."""
        super().note(text)
        if threading.current_thread() is threading.main_thread():
            self.watch()


@dataclass(kw_only=True)
class SearchFeed:
    """Logs the trials of an emulated search that were not there before, each as a step."""

    run: TrackedRun
    seen: set[str] = field(default_factory=set)

    def __call__(self, trials: Sequence[EmulationTrial]) -> None:
        for place, trial in enumerate(trials, start=1):
            asked = f"{trial.settings_text}, {trial.tokens} tokens"
            name = f"{asked}, {trial.emulated}, {trial.status}"
            if name in self.seen:
                continue
            self.seen.add(name)
            best = fastest_whole(trials[:place])
            values = {
                "result/settings": trial.settings_text,
                "result/tokens": trial.tokens,
                "result/status": trial.status,
                "result/model": trial.emulated,
                "emulated/peak_device_bytes": trial.peak_device_bytes,
                "simulated/step_seconds": trial.step_seconds,
                "simulated/best_step_seconds": None if best is None else best.step_seconds,
            }
            self.run.result(name, values)


def fastest_whole(trials: Sequence[EmulationTrial]) -> EmulationTrial | None:
    """The fastest trial of a whole model that fits."""
    fitting = [
        trial
        for trial in trials
        if trial.status == "ok" and trial.emulated == "whole" and trial.step_seconds is not None
    ]
    return min(fitting, key=lambda trial: trial.step_seconds or 0.0, default=None)


def end_search(run: TrackedRun, result: SearchResult, exit_code: int) -> None:
    """The table of all trials, and the answer."""
    SearchFeed(run=run)(result.trials)
    run.result(TABLE, {TABLE: cells(TRIAL_COLUMNS, result.trials, LABEL)}, by_values=True)
    summary: dict[str, object] = {
        "emulated/longest_tokens": result.longest_tokens,
        "unanswered": result.unanswered,
        "settings_not_tried": len(result.not_tried),
    }
    if result.found is not None:
        summary |= {"best_settings": result.found.settings_text, **_numbers(result.found)}
    run.end(summary, exit_code=exit_code)


def end_emulation(run: TrackedRun, emulation: Emulation) -> None:
    """A single emulation: its roles, and its verdict."""
    run.result(TABLE, {TABLE: cells(ROLE_COLUMNS, emulation.roles, "emulated")}, by_values=True)
    summary = {"status": emulation.status, "reason": emulation.reason, **_numbers(emulation)}
    run.end(summary, exit_code=1 if emulation.status in ("failed", "timeout") else 0)


def _numbers(emulation: Emulation) -> dict[str, object]:
    """The fullest peak, and the simulated time."""
    peaks = [role.peak_device_bytes for role in emulation.roles if role.peak_device_bytes]
    time = emulation.simulated_time
    return {
        "emulated/peak_device_bytes": max(peaks, default=None),
        "simulated/step_seconds": None if time is None else time.step_seconds,
        "simulated/mfu": None if time is None else time.mfu,
    }


def log_row(run: TrackedRun, figure: str, row: Verdict | LongestVerdict) -> None:
    """A row of the paper's points: a verdict, or a longest sequence."""
    name = slug(row.rule_name)
    values: dict[str, object] = {
        "result/system": row.rule_name,
        "result/gpus": row.gpus,
        "result/settings": row.settings_text,
    }
    if isinstance(row, LongestVerdict):
        place = f"{row.gpus} GPUs"
        values[f"emulated/longest_tokens/{name}"] = row.longest_tokens
        values[f"paper/longest_tokens/{name}"] = row.paper_tokens
    else:
        place = f"{row.model}, {row.seq}, {row.gpus} GPUs"
        values |= {
            "result/model": row.model,
            "result/tokens": row.seq,
            "result/status": row.status,
            "result/paper": row.paper_outcome,
            f"emulated/peak_device_bytes/{name}": row.peak_device_bytes,
            f"simulated/step_seconds/{name}": row.step_seconds,
        }
    run.result(f"fig{figure}, {place}, {row.rule_name}", values, by_values=True)


def end_figures(run: TrackedRun, figures: Sequence[PaperPoints], exit_code: int) -> None:
    """A table for each figure, and how many verdicts agree with the paper's."""
    summary: dict[str, object] = {}
    for figure in figures:
        key = f"fig{figure.figure or '10'}"
        if figure.verdicts:
            columns = boundaries_report.verdict_columns(figure.label)
            run.result(
                f"{key} {TABLE}", {key: cells(columns, figure.verdicts, LABEL)}, by_values=True
            )
            summary[f"{key}/agreement"] = boundaries_report.agreement(figure)
        if figure.longest:
            lengths = boundaries_report.longest_columns(figure.label, figure.step_tokens)
            run.result(
                f"{key} {TABLE}", {key: cells(lengths, figure.longest, LABEL)}, by_values=True
            )
    run.end(summary, exit_code=exit_code)
