"""The paper's 15 points (table 4, fig. 10) and its longest sequences (fig. 12), emulated.

Every verdict comes from the system's own code at full size. The layout rules (`layout_rules.py`)
and the profile's memory are fixed beforehand.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import msgspec

from baselines import registry
from baselines.protocol import Misfit
from benchmarks.emulation.depth.grid import search_grid
from benchmarks.emulation.emulator import Emulator, RunRank
from benchmarks.emulation.search import Searcher, longest
from benchmarks.paper import reported
from benchmarks.paper.layout_rules import LayoutRule
from benchmarks.paper.reported import ReportedPoint
from benchmarks.paper.verdicts import (
    LongestVerdict,
    Verdict,
    longest_verdict,
    nothing_fits,
    outcome_of,
    verdict_of,
)
from benchmarks.rows.emulated_choices import answer_of_search
from sppo.config.workload import Workload

LONGEST_AT_MOST_FACTOR = 3
"""A search of fig. 12 ends at this multiple of the paper's longest."""


@dataclass(frozen=True, kw_only=True)
class PaperComparison:
    """The rows and points to emulate. sequences_per_step: of every system at every point.

    all_rows: also rows that do not count where the paper is silent (fig. 1). from_searches: rows
    at their best have the answers of committed searches, where there are any. ranks_of: how ranks
    of a system run; as the emulator says if not given.
    """

    rules: Sequence[LayoutRule]
    points: Sequence[ReportedPoint]
    emulator: Emulator
    sequences_per_step: int
    all_rows: bool = False
    from_searches: bool = False
    ranks_of: Callable[[str], RunRank] | None = None

    def verdicts(self) -> Iterator[Verdict]:
        """The verdicts at all points, one by one, so that each can be saved at once.

        A row that does not count is left out where the paper is silent, unless it is a system at
        its best, or all rows are asked for. Raises NotSupported, ValueError or OSError.
        """
        for point in self.points:
            for rule in self.rules:
                shown = self.all_rows or rule.counted or rule.is_searched
                if shown or rule.paper_outcome(point) is not None:
                    place = f"{point.model}, {point.seq}, {point.gpus} GPUs"
                    self.emulator.progress.note(f"{place}: {rule.name}")
                    yield self._verdict(rule, point)

    def _verdict(self, rule: LayoutRule, point: ReportedPoint) -> Verdict:
        workload = point.workload(sequences_per_step=self.sequences_per_step)
        if rule.settings is None:
            return self._best_verdict(rule, point, workload)
        settings = rule.settings(point)
        try:
            emulation = self._emulator_of(rule).emulate(workload, rule.system, settings)
            outcome = outcome_of(emulation)
        except Misfit as error:
            # Another number of sequences would divide: no verdict on the layout.
            emulation = self.emulator.refused(workload, rule.system, settings, error)
            outcome = None
        return verdict_of(rule, point, emulation, outcome)

    def _best_verdict(self, rule: LayoutRule, point: ReportedPoint, workload: Workload) -> Verdict:
        """The fastest settings that fit; where none do, the last that were tried.

        The answer of a committed search is emulated anew, and its grid is not.
        """
        if self.from_searches:
            answer = self._committed_answer(rule, point, workload)
            if answer is not None:
                return answer
        emulator = replace(self.emulator, stop_at_first_oom=True)
        search = search_grid(Searcher(workload=workload, system=rule.system, emulator=emulator))
        changes = {"trials": len(search.trials), "unanswered": search.unanswered}
        if search.found is not None:
            verdict = verdict_of(rule, point, search.found, outcome_of(search.found))
            return msgspec.structs.replace(verdict, **changes)
        return nothing_fits(rule, point, search)

    def _committed_answer(
        self, rule: LayoutRule, point: ReportedPoint, workload: Workload
    ) -> Verdict | None:
        """The verdict on a committed search's answer; None without one, or where it fits no more.

        Raises RecordError.
        """
        choice = answer_of_search(rule.system, workload)
        if choice is None:
            return None
        settings: Any = msgspec.convert(choice.settings, registry.load(rule.system).settings_type)
        emulation = self._emulator_of(rule).emulate(workload, rule.system, settings)
        if not emulation.fits:
            return None
        verdict = verdict_of(rule, point, emulation, outcome_of(emulation))
        return msgspec.structs.replace(verdict, trials=choice.points, search_file=choice.file)

    def _emulator_of(self, rule: LayoutRule) -> Emulator:
        """The emulator, with ranks of the row's system."""
        if self.ranks_of is None:
            return self.emulator
        return replace(self.emulator, run_rank=self.ranks_of(rule.system))

    def longest(self) -> Iterator[LongestVerdict]:
        """Fig. 12: gpt-7b on so many GPUs. Each search starts at the paper's longest of SPPO.

        A row is left out where the paper is silent, unless it is a system at its best: then the
        longest of its grid. Raises NotSupported, ValueError or OSError.
        """
        for gpus in reported.longest_gpus():
            point = _longest_point(gpus)
            workload = point.workload(sequences_per_step=self.sequences_per_step)
            most_tokens = LONGEST_AT_MOST_FACTOR * workload.sequence_tokens
            for rule in self.rules:
                paper_tokens = rule.paper_longest(gpus)
                if paper_tokens is None and not rule.is_searched:
                    continue
                self.emulator.progress.note(f"longest: {gpus} GPUs: {rule.name}")
                emulator = replace(self.emulator, stop_at_first_oom=True)
                searcher = Searcher(workload=workload, system=rule.system, emulator=emulator)
                try:
                    if rule.settings is None:
                        search = search_grid(searcher, most_tokens)
                    else:
                        search = longest(searcher, [rule.settings(point)], most_tokens)
                except Misfit as error:
                    emulator.progress.note(str(error))
                    continue
                yield longest_verdict(rule, search, paper_tokens)


def _longest_point(gpus: int) -> ReportedPoint:
    """A point of fig. 12, which states no degrees. Its length is the paper's longest of SPPO."""
    known = next(point for point in reported.points() if point.model == reported.LARGE_MODEL)
    tokens = reported.longest_tokens("sppo", reported.LARGE_MODEL, gpus)
    return known.on_gpus(gpus, str(tokens) if tokens else known.seq)
