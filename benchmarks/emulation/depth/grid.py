"""The search of a system's whole grid, with ranks that are forks of a few processes."""

from __future__ import annotations

from dataclasses import replace

from benchmarks.emulation.depth.budget import SearchBudget
from benchmarks.emulation.depth.fastest import fastest
from benchmarks.emulation.depth.longest import longest
from benchmarks.emulation.forked.preloaded import PreloadedRanks
from benchmarks.emulation.search import Searcher, SearchResult


def search_grid(
    searcher: Searcher, longest_up_to: int | None = None, budget_seconds: float | None = None
) -> SearchResult:
    """The fastest settings that fit, or the longest sequence of up to so many tokens.

    budget_seconds: of the whole search (None: any). Raises OSError.
    """
    budget = SearchBudget() if budget_seconds is None else SearchBudget(seconds=budget_seconds)
    with PreloadedRanks(searcher.system) as ranks:
        searcher.emulator = replace(searcher.emulator, run_rank=ranks.emulate_rank)
        if longest_up_to is None:
            return fastest(searcher, budget)
        return longest(searcher, longest_up_to, budget)
