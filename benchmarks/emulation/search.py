"""Many emulations, one question: the longest sequence that fits, or the fastest settings that fit.

The longest is a multiple of STEP_TOKENS that fits while the next one does not. SPPO plans every
length anew and its planner knows the limit, so only its plan's longest is emulated, and less where
the emulated plan does not fit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import msgspec

from baselines import registry
from baselines.protocol import Adapter, Misfit, Planner
from benchmarks.emulation.emulator import Emulator
from benchmarks.emulation.result import LABEL, Emulation
from benchmarks.job import Status
from benchmarks.longest_fit import Answer, longest_fit
from sppo.config.sizes import length_name
from sppo.config.workload import Workload

SCHEMA = "sppo-emulated-search/1"
STEP_TOKENS = 16 * 1024
AT_MOST_FACTOR = 8
"""No search asks for more than so many times the length of the workload, unless told."""


class Trial(msgspec.Struct, frozen=True, kw_only=True):
    """One emulation, in short. Peak: of the role that needs the most; None where nothing ran.

    step_seconds: simulated.
    """

    settings_text: str
    tokens: int
    status: Status
    reason: str
    peak_device_bytes: int | None
    limiting_role: str | None
    step_seconds: float | None


class Searched(msgspec.Struct, frozen=True, kw_only=True):
    """What was found: `found` is the emulation that answers, None where nothing fits.

    longest_tokens: 0 where nothing fits; None where settings and not a length were searched.
    unanswered: what broke or took too long, so that the answer may be wrong; "" if nothing did.
    """

    schema: str = SCHEMA
    label: str = LABEL
    workload: Workload
    system: str
    step_tokens: int
    at_most_tokens: int | None
    longest_tokens: int | None
    found: Emulation | None
    trials: list[Trial]
    unanswered: str


@dataclass(kw_only=True)
class Searcher:
    """Asks one system on one workload, and keeps what came of it."""

    workload: Workload
    system: str
    emulator: Emulator
    trials: list[Trial] = field(default_factory=list)
    fitting: dict[int, Emulation] = field(default_factory=dict)
    unanswered: list[str] = field(default_factory=list)
    _limiting: str | None = None

    @property
    def adapter(self) -> Adapter:
        return registry.load(self.system)

    def try_settings(self, settings: Any, tokens: int) -> Emulation:
        """One emulation, the role that was the fullest last time first. Raises Misfit."""
        workload = replace(self.workload, sequence_tokens=tokens)
        found = self.emulator.emulate(workload, self.system, settings, first=self._limiting)
        self._limiting = found.limiting_role or self._limiting
        self.trials.append(_trial(found, tokens))
        if found.fits is None and found.status != "unavailable":
            words = f"{found.settings_text}, {length_name(tokens)} tokens: {found.status}"
            self.unanswered.append(f"{words}: {found.reason}")
        return found

    def longest(self, settings: Any, at_most_tokens: int, floor_tokens: int = 0) -> int:
        """Tokens, a multiple of the step; the floor where nothing above it fits.

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
            found = self.try_settings(settings, tokens)
        except Misfit as error:
            if tokens == start:
                raise
            workload = replace(self.workload, sequence_tokens=tokens)
            refused = self.emulator.refused(
                workload, self.system, settings, "unavailable", str(error)
            )
            self.trials.append(_trial(refused, tokens))
            return Answer(fits=False)
        if not found.fits:
            return Answer(fits=False)
        self.fitting[tokens] = found
        return Answer(fits=True, guess_tokens=_guess(found, tokens))

    def _longest_plan(self, settings: Any, start: int, most: int) -> int:
        """The longest for which there is a plan; nothing runs."""

        def ask(tokens: int) -> Answer:
            workload = replace(self.workload, sequence_tokens=tokens)
            refused = self.emulator.refusal(workload, self.system, settings)
            if refused is not None:
                self.trials.append(_trial(refused, tokens))
            self.emulator.told.note(f"{tokens:,} tokens: {'no ' if refused else 'a '}plan")
            return Answer(fits=refused is None)

        return longest_fit(
            ask, start_tokens=start, step_tokens=STEP_TOKENS, most_tokens=most, stride_tokens=start
        )

    def result(
        self, longest_tokens: int | None, at_most_tokens: int | None, found: Emulation | None
    ) -> Searched:
        """The record."""
        return Searched(
            workload=self.workload,
            system=self.system,
            step_tokens=STEP_TOKENS,
            at_most_tokens=at_most_tokens,
            longest_tokens=longest_tokens,
            found=found,
            trials=self.trials,
            unanswered="; ".join(self.unanswered),
        )


def longest(searcher: Searcher, settings: Sequence[Any], at_most_tokens: int) -> Searched:
    """The longest of several settings: each is first asked for more than the best so far.

    Raises Misfit where the only settings do not divide; of several, those are passed over.
    """
    best = 0
    for one in settings:
        try:
            best = searcher.longest(one, at_most_tokens, floor_tokens=best)
        except Misfit as error:
            if len(settings) == 1:
                raise
            searcher.emulator.told.note(str(error))
    most = at_most_tokens // STEP_TOKENS * STEP_TOKENS
    return searcher.result(best, most, searcher.fitting.get(best))


def fastest(searcher: Searcher) -> Searched:
    """The settings of the grid whose simulated step is the shortest of those that fit.

    Of each layout the first that fits stands for it: a grid begins with the least recomputation,
    which is the fastest.
    """
    tokens = searcher.workload.sequence_tokens
    fitting: list[tuple[float, int, Emulation]] = []
    for layout in layouts(searcher.adapter, searcher.workload):
        for settings in layout:
            try:
                found = searcher.try_settings(settings, tokens)
            except Misfit as error:
                searcher.emulator.told.note(str(error))
                break
            if found.fits and found.simulated_time is not None:
                fitting.append((found.simulated_time.step_seconds, len(fitting), found))
            if found.fits or found.status == "unavailable":
                break
    best = min(fitting, default=None)
    return searcher.result(None, None, None if best is None else best[2])


def layouts(adapter: Adapter, workload: Workload) -> list[list[Any]]:
    """The adapter's grid by degrees of parallelism, each in the grid's order."""
    groups: dict[tuple[tuple[str, Any], ...], list[Any]] = {}
    for settings in adapter.grid(workload):
        fields = msgspec.to_builtins(settings).items()
        degrees = tuple(sorted(pair for pair in fields if pair[0].endswith("_parallel")))
        groups.setdefault(degrees, []).append(settings)
    return list(groups.values())


def leanest(adapter: Adapter, workload: Workload) -> list[Any]:
    """Of every layout the settings that the grid puts last: the most recomputation."""
    return [layout[-1] for layout in layouts(adapter, workload)]


def _trial(found: Emulation, tokens: int) -> Trial:
    peaks = [role.peak_device_bytes for role in found.roles if role.peak_device_bytes is not None]
    time = found.simulated_time
    return Trial(
        settings_text=found.settings_text,
        tokens=tokens,
        status=found.status,
        reason=found.reason,
        peak_device_bytes=max(peaks, default=None),
        limiting_role=found.limiting_role,
        step_seconds=None if time is None else time.step_seconds,
    )


def _guess(found: Emulation, tokens: int) -> int | None:
    """Where the fullest role reaches the limit, if all but what lay there before grows so."""
    capacity = found.capacity_bytes
    guesses = [
        tokens * (capacity - role.counts.before_step_bytes) // grown
        for role in found.roles
        if capacity is not None
        and role.counts is not None
        and (grown := role.counts.peak_device_bytes - role.counts.before_step_bytes) > 0
    ]
    return min(guesses, default=None)
