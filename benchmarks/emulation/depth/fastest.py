"""The fastest settings of a grid that fit, by simulated time.

Estimates order the grid and drop what cannot fit; then the fastest is emulated whole, and the next
where it does not fit. Layouts whose compute and idle time alone are longer than the answer are not
emulated at all. Nor are those that hold too much by three whole models (`whole_peaks.py`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from benchmarks.emulation.depth.bound import least_seconds
from benchmarks.emulation.depth.budget import SearchBudget
from benchmarks.emulation.depth.estimates import PEAK_MARGIN, Estimate, Estimator
from benchmarks.emulation.depth.whole_peaks import WholePeaks
from benchmarks.emulation.result import Emulation
from benchmarks.emulation.search import EmulationTrial, Searcher, SearchResult, SkippedSetting
from sppo.config.hardware import load_hardware
from sppo.config.sizes import format_bytes, length_name

BOUND_SHARE = 0.05
"""Layouts whose least times differ by at most this share are estimated together."""


class OutOfBudget(Exception):
    """The seconds of the search are over."""


@dataclass(kw_only=True)
class GridSearch:
    """What is known of a system's grid so far."""

    searcher: Searcher
    estimator: Estimator
    best: Emulation | None = None
    peaks: WholePeaks = field(default_factory=WholePeaks)
    skipped: list[SkippedSetting] = field(default_factory=list)
    not_tried: list[str] = field(default_factory=list)

    @property
    def best_seconds(self) -> float:
        """The simulated step of the best so far; infinite without any."""
        return seconds_of(self.best)

    def estimate(
        self, settings: Sequence[Any], tokens: int, label: str, *, checked: bool = False
    ) -> list[Estimate]:
        """Estimates of the settings at a length, kept as trials; without those not tried."""
        workload = self.searcher.workload_of(tokens)
        estimates = self.estimator.estimates(workload, settings, label, checked=checked)
        done = []
        for point, estimate in zip(settings, estimates, strict=True):
            if estimate is None:
                self.not_tried.append(self.text(point, tokens))
                continue
            done.append(estimate)
            trial = estimate.trial
            self._enter(trial)
            if estimate.emulation.fits is None and trial.status != "unavailable":
                words = f"{self.text(point, tokens)}: {trial.status}: {trial.reason}"
                self.searcher.unanswered.append(words)
        return done

    def try_whole(self, settings: Any, tokens: int) -> Emulation:
        """Emulate the whole model; its trial takes the estimate's place.

        Raises OutOfBudget or Misfit.
        """
        left_seconds = self.estimator.budget.left_seconds
        if left_seconds <= 0:
            self.not_tried.append(f"{self.text(settings, tokens)}, the whole model")
            raise OutOfBudget
        emulation = self.searcher.try_settings(settings, tokens, left_seconds)
        *earlier, whole = self.searcher.trials
        for trial in earlier:
            if trial.emulated == "extrapolated" and _same(trial, whole):
                whole = msgspec.structs.replace(
                    whole,
                    extrapolated_peak_device_bytes=trial.peak_device_bytes,
                    extrapolated_step_seconds=trial.step_seconds,
                )
        self.searcher.trials = [trial for trial in earlier if not _same(trial, whole)] + [whole]
        self.peaks.note(settings, emulation)
        return emulation

    def cannot_fit(self, estimate: Estimate) -> bool:
        """Whether whole models of the same settings hold too much; then a trial says so."""
        if not estimate.layers:
            return False  # the whole model itself was emulated
        emulation = estimate.emulation
        least = self.peaks.least_bytes(emulation.workload, estimate.settings)
        capacity_bytes = emulation.capacity_bytes
        if least is None or capacity_bytes is None:
            return False
        role, peak_bytes = least
        if peak_bytes <= (1 + PEAK_MARGIN) * capacity_bytes:
            return False
        words = "by whole models with smaller counts of layers"
        trial = msgspec.structs.replace(
            estimate.trial,
            status="oom",
            reason=f"{role} holds at least {format_bytes(peak_bytes)}, {words}",
            peak_device_bytes=peak_bytes,
            limiting_role=role,
        )
        self._enter(trial)
        return True

    def _enter(self, trial: EmulationTrial) -> None:
        """Keep a trial in place of an earlier one of the same settings and length."""
        earlier = [known for known in self.searcher.trials if not _same(known, trial)]
        self.searcher.trials = [*earlier, trial]

    def text(self, settings: Any, tokens: int) -> str:
        """The settings in words, with the length where the length is not the workload's."""
        text = self.searcher.adapter.describe(settings)
        same = tokens == self.searcher.workload.sequence_tokens
        return text if same else f"{text}, {length_name(tokens)} tokens"

    def result(self, longest_tokens: int | None, at_most_tokens: int | None) -> SearchResult:
        """The record of the search."""
        result = self.searcher.result(longest_tokens, at_most_tokens, self.best)
        return msgspec.structs.replace(result, skipped=self.skipped, not_tried=self.not_tried)


def fastest(searcher: Searcher, budget: SearchBudget) -> SearchResult:
    """The settings of the grid with the shortest simulated step of those that fit."""
    estimator = Estimator(system=searcher.system, emulator=searcher.emulator, budget=budget)
    grid = GridSearch(searcher=searcher, estimator=estimator)
    tokens = searcher.workload.sequence_tokens
    for bound, layouts in by_least_seconds(searcher):
        able = [settings for least, settings in layouts if least < grid.best_seconds]
        for least, settings in layouts:
            if least >= grid.best_seconds:
                grid.skipped.append(_too_slow(searcher, settings, least))
        label = f"settings of at least {bound:,.1f} s a step"
        try:
            estimates = grid.estimate(able, tokens, label)
            _try_in_order(grid, estimates)
            dropped = [estimate for estimate in estimates if _needs_check(grid, estimate)]
            again = [estimate.settings for estimate in dropped]
            _try_in_order(grid, grid.estimate(again, tokens, "dropped settings", checked=True))
        except OutOfBudget:
            break
    return grid.result(None, None)


def _try_in_order(grid: GridSearch, estimates: Sequence[Estimate]) -> None:
    """Run the fastest whole until the rest is slower than the best. Raises OutOfBudget."""
    able = [estimate for estimate in estimates if estimate.may_fit]
    for estimate in sorted(able, key=lambda estimate: seconds_of(estimate.emulation)):
        if seconds_of(estimate.emulation) >= grid.best_seconds:
            return
        if grid.cannot_fit(estimate):
            continue
        emulation = grid.try_whole(estimate.settings, estimate.emulation.workload.sequence_tokens)
        if emulation.fits:
            grid.best = min((emulation, grid.best), key=seconds_of)


def _needs_check(grid: GridSearch, estimate: Estimate) -> bool:
    """Whether the estimate drops settings that are faster than the best."""
    is_dropped = bool(estimate.layers) and not estimate.may_fit
    return is_dropped and seconds_of(estimate.emulation) < grid.best_seconds


def by_least_seconds(searcher: Searcher) -> Iterator[tuple[float, list[tuple[float, Any]]]]:
    """(Least seconds, [(least seconds, settings), ...]) of the grid, the shortest first."""
    workload = searcher.workload
    profile = load_hardware(workload.cluster.hardware)
    points = [
        (least_seconds(workload, settings, profile), settings)
        for settings in searcher.adapter.grid(workload)
    ]
    points.sort(key=lambda point: point[0])
    group: list[tuple[float, Any]] = []
    for point in points:
        if group and point[0] > group[0][0] * (1 + BOUND_SHARE):
            yield group[0][0], group
            group = []
        group.append(point)
    if group:
        yield group[0][0], group


def seconds_of(emulation: Emulation | None) -> float:
    """The simulated step in seconds; infinite without a time."""
    time = None if emulation is None else emulation.simulated_time
    return math.inf if time is None else time.step_seconds


def _same(trial: EmulationTrial, other: EmulationTrial) -> bool:
    """Whether both are of the same settings and length."""
    return (trial.settings_text, trial.tokens) == (other.settings_text, other.tokens)


def _too_slow(searcher: Searcher, settings: Any, least: float) -> SkippedSetting:
    return SkippedSetting(
        settings_text=searcher.adapter.describe(settings),
        reason=f"compute and idle time alone take {least:,.1f} s a step, the answer less",
        at_least_seconds=least,
    )
