"""The longest sequence of any settings of a grid, by estimates of every length.

The answer is emulated whole: it fits, and one step of lengths more does not.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from baselines.protocol import Misfit
from benchmarks.emulation.depth.budget import SearchBudget
from benchmarks.emulation.depth.estimates import Estimate, Estimator
from benchmarks.emulation.depth.fastest import GridSearch, OutOfBudget
from benchmarks.emulation.search import (
    STEP_TOKENS,
    Searcher,
    SearchResult,
    SkippedSetting,
    guess_of,
    layouts,
    leanest,
)
from benchmarks.longest_fit import Answer, longest_fit
from sppo.config.sizes import length_name

MOST_SETTINGS = 48
"""Settings whose peaks are estimated at the workload's length: of each layout at least the last."""

GUESS_SHARE = 0.8
"""A setting is not asked for more than the best so far where memory, growing in proportion to the
length, ends before this share of the best."""


@dataclass(frozen=True, kw_only=True)
class Guess:
    """Settings, and the length in tokens at which their memory may end."""

    settings: Any
    tokens: int


def longest(searcher: Searcher, at_most_tokens: int, budget: SearchBudget) -> SearchResult:
    """The longest of the grid's settings that recompute most.

    Their peaks at the workload's length give the order. Each is asked for more than the best so
    far. Then the best is emulated whole around its longest.
    """
    estimator = Estimator(system=searcher.system, emulator=searcher.emulator, budget=budget)
    grid = GridSearch(searcher=searcher, estimator=estimator)
    most = at_most_tokens // STEP_TOKENS * STEP_TOKENS
    best, best_tokens = None, 0
    for guess in guesses(grid, most):
        text = searcher.adapter.describe(guess.settings)
        if guess.tokens < GUESS_SHARE * best_tokens:
            reason = f"memory ends near {length_name(guess.tokens // STEP_TOKENS * STEP_TOKENS)}"
            grid.skipped.append(SkippedSetting(settings_text=text, reason=reason))
            continue
        tokens = _longest_estimate(grid, guess, most, best_tokens)
        if tokens > best_tokens:
            best, best_tokens = guess.settings, tokens
    if best is not None:
        _confirm(grid, best, best_tokens, most)
    found_tokens = grid.best.workload.sequence_tokens if grid.best else 0
    return grid.result(found_tokens, most)


def guesses(grid: GridSearch, most_tokens: int) -> list[Guess]:
    """The leanest settings by where their memory may end, the longest first."""
    workload = grid.searcher.workload
    start = max(STEP_TOKENS, workload.sequence_tokens // STEP_TOKENS * STEP_TOKENS)
    adapter = grid.searcher.adapter
    each = max(1, MOST_SETTINGS // max(1, len(layouts(adapter, workload))))
    settings = leanest(adapter, workload, each)
    estimates = grid.estimate(settings, min(start, most_tokens), "peaks at the workload's length")
    known = [
        Guess(settings=estimate.settings, tokens=guess)
        for estimate in estimates
        if (guess := _guess(estimate, most_tokens)) is not None
    ]
    return sorted(known, key=lambda guess: guess.tokens, reverse=True)


def _guess(estimate: Estimate, most_tokens: int) -> int | None:
    """None where nothing was counted."""
    if not any(role.counts for role in estimate.emulation.roles):
        return None
    guess = guess_of(estimate.emulation)
    return most_tokens if guess is None else max(0, guess)


def _longest_estimate(grid: GridSearch, guess: Guess, most: int, floor: int) -> int:
    """The longest by estimates, above the floor; else the floor."""
    if most <= floor:
        return floor

    def ask(tokens: int) -> Answer:
        text = f"{grid.searcher.adapter.describe(guess.settings)}, {length_name(tokens)}"
        estimates = grid.estimate([guess.settings], tokens, text, checked=True)
        return Answer(fits=any(estimate.emulation.fits for estimate in estimates))

    start = guess.tokens // STEP_TOKENS * STEP_TOKENS if floor == 0 else floor + STEP_TOKENS
    return longest_fit(
        ask,
        start_tokens=min(max(start, STEP_TOKENS), most),
        step_tokens=STEP_TOKENS,
        most_tokens=most,
        stride_tokens=STEP_TOKENS,
        floor_tokens=floor,
    )


def _confirm(grid: GridSearch, settings: Any, start_tokens: int, most_tokens: int) -> None:
    """Emulate the whole model around an estimated length; `grid.best` is its longest that fits."""

    def ask(tokens: int) -> Answer:
        try:
            emulation = grid.try_whole(settings, tokens)
        except Misfit:
            return Answer(fits=False)
        if emulation.fits:
            grid.best = emulation
        return Answer(fits=bool(emulation.fits))

    with suppress(OutOfBudget):
        longest_fit(
            ask,
            start_tokens=start_tokens,
            step_tokens=STEP_TOKENS,
            most_tokens=most_tokens,
            stride_tokens=STEP_TOKENS,
        )
