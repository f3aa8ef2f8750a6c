"""Many emulations, one question: what is the longest sequence that fits?

The longest is a multiple of STEP_TOKENS that fits while the next multiple does not. SPPO plans
every length separately and its planner knows the limit. So only the longest plan is emulated, and a
shorter one where the emulated plan does not fit. Searches of a whole grid are in `depth`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import msgspec

from baselines import registry
from baselines.protocol import Adapter, Misfit, Planner, Unavailable, check_emulated
from benchmarks.emulation.emulator import Emulator
from benchmarks.emulation.result import LABEL, Emulation
from benchmarks.job import Status
from benchmarks.longest_fit import Answer, guess_tokens, longest_fit
from sppo.config.sizes import length_name
from sppo.config.workload import Workload

SCHEMA = "sppo-emulated-search/1"
Emulated = Literal["whole", "extrapolated", ""]

STEP_TOKENS = 16 * 1024
AT_MOST_FACTOR = 8
"""A search ends at this multiple of the workload's length, unless the user gives another end."""


class EmulationTrial(msgspec.Struct, frozen=True, kw_only=True):
    """One emulation of a search. peak_device_bytes: of the fullest role; None where nothing ran.

    step_seconds: simulated. emulated: the whole model, or models of `layers` layers from which the
    numbers are extrapolated; "" where nothing ran. extrapolated_...: what was expected of a whole
    model.
    """

    settings_text: str
    tokens: int
    status: Status
    reason: str
    peak_device_bytes: int | None
    limiting_role: str | None
    step_seconds: float | None
    emulated: Emulated = "whole"
    layers: list[int] = []
    extrapolated_peak_device_bytes: int | None = None
    extrapolated_step_seconds: float | None = None


class SkippedSetting(msgspec.Struct, frozen=True, kw_only=True):
    """A setting of the grid without an emulation. at_least_seconds: of its step, if known."""

    settings_text: str
    reason: str
    at_least_seconds: float | None = None


class SearchResult(msgspec.Struct, frozen=True, kw_only=True):
    """The answer of a search: `found` is the emulation that answers, None where nothing fits.

    longest_tokens: 0 where nothing fits; None where settings and not a length were searched.
    unanswered: trials that broke or took too long, so that the answer may be wrong; else "".
    skipped: settings that cannot be the answer. not_tried: settings that might be, but the search's
    seconds were over.
    """

    schema: str = SCHEMA
    label: str = LABEL
    workload: Workload
    system: str
    step_tokens: int
    at_most_tokens: int | None
    longest_tokens: int | None
    found: Emulation | None
    trials: list[EmulationTrial]
    unanswered: str
    skipped: list[SkippedSetting] = []
    not_tried: list[str] = []


@dataclass(kw_only=True)
class Searcher:
    """Emulates one system on one workload, and keeps the trials."""

    workload: Workload
    system: str
    emulator: Emulator
    trials: list[EmulationTrial] = field(default_factory=list)
    fitting: dict[int, Emulation] = field(default_factory=dict)
    unanswered: list[str] = field(default_factory=list)
    _limiting: str | None = None

    @property
    def adapter(self) -> Adapter:
        """The adapter of the system. Raises ValueError for an unknown system."""
        return registry.load(self.system)

    def try_settings(
        self, settings: Any, tokens: int, within_seconds: float = math.inf
    ) -> Emulation:
        """One emulation; the role that was the fullest last time runs first. Raises Misfit."""
        limit_seconds = min(within_seconds, self.emulator.time_limit_seconds)
        emulation = replace(self.emulator, time_limit_seconds=limit_seconds).emulate(
            self.workload_of(tokens), self.system, settings, first=self._limiting
        )
        self._limiting = emulation.limiting_role or self._limiting
        self.trials.append(trial_of(emulation))
        if emulation.fits is None and emulation.status != "unavailable":
            words = f"{emulation.settings_text}, {length_name(tokens)} tokens: {emulation.status}"
            self.unanswered.append(f"{words}: {emulation.reason}")
        return emulation

    def workload_of(self, tokens: int) -> Workload:
        """The workload with sequences of this length."""
        return replace(self.workload, sequence_tokens=tokens)

    def longest(self, settings: Any, at_most_tokens: int, floor_tokens: int = 0) -> int:
        """Tokens, a multiple of STEP_TOKENS; the floor where nothing above it fits.

        Raises Misfit where the settings do not divide the length at which the search begins.
        """
        most = at_most_tokens // STEP_TOKENS * STEP_TOKENS
        if most <= floor_tokens:
            return floor_tokens
        start = max(self.workload.sequence_tokens // STEP_TOKENS * STEP_TOKENS, STEP_TOKENS)
        start = min(max(start, floor_tokens + STEP_TOKENS), most)
        if isinstance(self.adapter, Planner):
            most = start = self._longest_plan(settings, start, most)
            if start <= floor_tokens:
                return floor_tokens
        return longest_fit(
            lambda tokens: self._ask(settings, tokens, start),
            start_tokens=start,
            step_tokens=STEP_TOKENS,
            most_tokens=most,
            stride_tokens=max(STEP_TOKENS, start // 8 // STEP_TOKENS * STEP_TOKENS),
            floor_tokens=floor_tokens,
        )

    def _ask(self, settings: Any, tokens: int, start: int) -> Answer:
        try:
            emulation = self.try_settings(settings, tokens)
        except Misfit as error:
            if tokens == start:
                raise
            workload = self.workload_of(tokens)
            emulation = self.emulator.refused(workload, self.system, settings, error)
            self.trials.append(trial_of(emulation))
        if not emulation.fits:
            return Answer(fits=False)
        self.fitting[tokens] = emulation
        return Answer(fits=True, guess_tokens=guess_of(emulation))

    def _longest_plan(self, settings: Any, start: int, most: int) -> int:
        """The longest length in tokens that has a plan; nothing runs."""

        def ask(tokens: int) -> Answer:
            refused = self.emulator.refusal(self.workload_of(tokens), self.system, settings)
            if refused is not None:
                self.trials.append(trial_of(refused))
            self.emulator.progress.note(f"{tokens:,} tokens: {'no ' if refused else 'a '}plan")
            return Answer(fits=refused is None)

        return longest_fit(
            ask, start_tokens=start, step_tokens=STEP_TOKENS, most_tokens=most, stride_tokens=start
        )

    def result(
        self, longest_tokens: int | None, at_most_tokens: int | None, found: Emulation | None
    ) -> SearchResult:
        """The record of the search."""
        return SearchResult(
            workload=self.workload,
            system=self.system,
            step_tokens=STEP_TOKENS,
            at_most_tokens=at_most_tokens,
            longest_tokens=longest_tokens,
            found=found,
            trials=self.trials,
            unanswered="; ".join(self.unanswered),
        )


def longest(searcher: Searcher, settings: Sequence[Any], at_most_tokens: int) -> SearchResult:
    """The longest of several settings: each is first asked for more than the best so far.

    Raises Misfit where the only settings do not divide; of several, such settings are skipped.
    """
    best = 0
    for candidate in settings:
        try:
            best = searcher.longest(candidate, at_most_tokens, floor_tokens=best)
        except Misfit as error:
            if len(settings) == 1:
                raise
            searcher.emulator.progress.note(str(error))
    most = at_most_tokens // STEP_TOKENS * STEP_TOKENS
    return searcher.result(best, most, searcher.fitting.get(best))


def layouts(adapter: Adapter, workload: Workload) -> list[list[Any]]:
    """The adapter's grid by degrees of parallelism, each in the grid's order."""
    groups: dict[tuple[tuple[str, Any], ...], list[Any]] = {}
    for settings in adapter.grid(workload):
        fields = msgspec.to_builtins(settings).items()
        degrees = tuple(sorted(pair for pair in fields if pair[0].endswith("_parallel")))
        groups.setdefault(degrees, []).append(settings)
    return list(groups.values())


def leanest(adapter: Adapter, workload: Workload, each: int = 1) -> list[Any]:
    """Of every layout the last `each` settings of the grid, the last first: they recompute most.

    Settings that recompute only some layers are left out where others are there, and so are those
    that emulation cannot run.
    """
    groups = []
    for layout in layouts(adapter, workload):
        able = [settings for settings in layout if _is_emulable(adapter, workload, settings)]
        whole = [settings for settings in able if not _counts_layers(settings)]
        groups.append(whole or able or layout)
    return [settings for group in groups for settings in reversed(group[-each:])]


def _is_emulable(adapter: Adapter, workload: Workload, settings: Any) -> bool:
    try:
        check_emulated(adapter, workload, settings)
    except Unavailable:
        return False
    return True


def _counts_layers(settings: Any) -> bool:
    fields = msgspec.to_builtins(settings).items()
    return any(value for name, value in fields if name.endswith("_layers"))


def trial_of(emulation: Emulation) -> EmulationTrial:
    """The emulation of a whole model as a trial of a search."""
    peaks = [role.counts.peak_device_bytes for role in emulation.roles if role.counts is not None]
    time = emulation.simulated_time
    return EmulationTrial(
        settings_text=emulation.settings_text,
        tokens=emulation.workload.sequence_tokens,
        status=emulation.status,
        reason=emulation.reason,
        peak_device_bytes=max(peaks, default=None),
        limiting_role=emulation.limiting_role,
        step_seconds=None if time is None else time.step_seconds,
        emulated="whole" if emulation.roles else "",
        layers=[emulation.workload.model.layers] if emulation.roles else [],
    )


def guess_of(emulation: Emulation) -> int | None:
    """The length in tokens at which memory may end; None where no count tells."""
    if emulation.capacity_bytes is None:
        return None
    counts = [role.counts for role in emulation.roles if role.counts is not None]
    sizes_bytes = [(count.peak_device_bytes, count.before_step_bytes) for count in counts]
    return guess_tokens(sizes_bytes, emulation.workload.sequence_tokens, emulation.capacity_bytes)
