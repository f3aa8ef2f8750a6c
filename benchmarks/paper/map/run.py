"""All plans and searches of the map, one by one, saved as they come."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec

from baselines import registry
from benchmarks.emulation.depth.estimates import Estimator
from benchmarks.emulation.depth.grid import search_grid
from benchmarks.emulation.emulator import Emulator
from benchmarks.emulation.forked.preloaded import PreloadedRanks
from benchmarks.emulation.result import Emulation
from benchmarks.emulation.search import Searcher, SearchResult
from benchmarks.environment import CHECKOUT, available_cores, git_state
from benchmarks.paper.map.bound import layouts_of
from benchmarks.paper.map.candidates import candidates
from benchmarks.paper.map.data import MapData, MapPlan, MapSearch
from benchmarks.paper.map.places import Place
from benchmarks.paper.map.planned import plan_at
from benchmarks.records import store
from benchmarks.rows.emulated_choices import EmulatedChoice, answer_of_search, choice_for
from benchmarks.worker.parent import end_with_parent, parent_variable
from sppo.config.workload import Workload

Search = tuple[Place, str]
"""A place and a peer."""

Answer = Callable[[Workload, str, Emulator], dict[str, Any] | None]
"""Workload, system, emulator -> fields of a MapSearch; None where there is nothing to enter."""


@dataclass(kw_only=True)
class MapRun:
    """A run of `--map`. Entries of `data` are kept; what is missing is made and saved to `path`.

    note: takes a line of progress. emulator: of the peers; the folder of `path` gets their ranks.
    budget_seconds: of one peer's search at one place.
    """

    path: Path
    data: MapData
    emulator: Emulator
    budget_seconds: float
    note: Callable[[str], None]

    def plan(self, places: Sequence[Place]) -> None:
        """Make the missing plans, as many at once as there are cores. Raises OSError."""
        missing = [place for place in places if self.data.plan(place) is None]
        if len(missing) < 2:
            for place in missing:
                self._enter_plan(plan_at(place), "1/1")
            return
        pool = ProcessPoolExecutor(
            min(available_cores(), len(missing)),
            mp_context=multiprocessing.get_context("spawn"),
            initializer=_begin,
            initargs=(parent_variable(),),
        )
        try:
            futures = [pool.submit(plan_at, place) for place in missing]
            for number, future in enumerate(as_completed(futures), 1):
                self._enter_plan(future.result(), f"{number}/{len(missing)}")
        finally:
            pool.shutdown(cancel_futures=True)

    def take_committed(self, where: Sequence[Place], system: str) -> None:
        """Emulate the answers of committed searches. Raises OSError, RecordError.

        An answer of a search that tried all settings counts as a search of the grid.
        """
        known = [(place, committed_choice(system, place.workload)) for place in where]
        missing = [
            (place, choice)
            for place, choice in known
            if choice is not None and self._is_news(place, system, choice)
        ]
        if not missing:
            return
        with PreloadedRanks(system) as ranks:
            emulator = replace(self.emulator, run_rank=ranks.emulate_rank)
            for place, choice in missing:
                self._emulate(place, system, _answer_of(choice), emulator)

    def _is_news(self, place: Place, system: str, choice: EmulatedChoice) -> bool:
        kept = self.data.search(place, system)
        if kept is None:
            return True
        if choice.is_whole_search != kept.is_whole:
            return choice.is_whole_search
        if kept.found is None:
            return not kept.is_whole
        return bool(kept.found.settings != msgspec.to_builtins(_typed(system, choice)))

    def try_settings(self, where: Sequence[Place], system: str) -> None:
        """Emulate a few settings of a peer where nothing of it is kept. Raises OSError.

        The library is imported once for all places.
        """
        missing = [place for place in where if self.data.search(place, system) is None]
        if not missing:
            return
        with PreloadedRanks(system) as ranks:
            emulator = replace(self.emulator, run_rank=ranks.emulate_rank)
            for place in missing:
                self._emulate(place, system, _first_that_fits, emulator)

    def search(self, asked: Iterable[Search]) -> None:
        """Search the peers' grids where no search is kept. Raises OSError."""
        for place, system in asked:
            kept = self.data.search(place, system)
            if kept is None or kept.how != "grid":
                self._emulate(place, system, self._fastest_of_the_grid, self.emulator)

    def _emulate(self, place: Place, system: str, answer: Answer, emulator: Emulator) -> None:
        self.note(f"{place.name}: {system}")
        workload = place.workload
        folder = self.path.parent / "searches" / f"{system}-{workload.name}"
        folder.mkdir(parents=True, exist_ok=True)
        begun = time.monotonic()
        values = answer(workload, system, emulator.for_search(folder))
        if values is None:
            self.note(f"{place.name}: {system}: the committed answer fits no more")
            return
        entry = MapSearch(
            place=place,
            system=system,
            search_seconds=time.monotonic() - begun,
            commit=git_state(CHECKOUT)[0] or "unknown",
            **values,
        )
        self._enter(entry)
        self.note(f"{place.name}: {_search_line(entry)}")

    def _fastest_of_the_grid(
        self, workload: Workload, system: str, emulator: Emulator
    ) -> dict[str, Any]:
        searcher = Searcher(
            workload=workload,
            system=system,
            emulator=replace(emulator, stop_at_first_oom=True),
        )
        result = search_grid(searcher, budget_seconds=self.budget_seconds)
        return {
            "how": "grid",
            "found": _without_machine(result.found),
            "reason": "" if result.found else _why_none(result),
            "trials": len(result.trials),
            "unanswered": result.unanswered,
            "not_tried": len(result.not_tried),
        }

    def _enter_plan(self, plan: MapPlan, count: str) -> None:
        self._enter(plan)
        self.note(f"[{count}] {_plan_line(plan)}")

    def _enter(self, entry: MapPlan | MapSearch) -> None:
        self.data.add(entry)
        self.save()

    def save(self) -> None:
        """Write all entries, by name. Raises OSError."""
        self.data.plans.sort(key=lambda plan: plan.place.name)
        self.data.searches.sort(key=lambda search: (search.place.name, search.system))
        store.save(self.path, self.data)


def committed_choice(system: str, workload: Workload) -> EmulatedChoice | None:
    """The answer of a committed search of this step, with today's settings. Raises RecordError."""
    answer = answer_of_search(system, workload)
    if answer is not None:
        return answer
    found = choice_for(system, workload)
    if found is None or found[0].workload.sequences_per_step != workload.sequences_per_step:
        return None
    return replace(found[0], settings=found[1])


def _typed(system: str, choice: EmulatedChoice) -> Any:
    """The settings as the adapter takes them."""
    return msgspec.convert(choice.settings, registry.load(system).settings_type)


def _answer_of(choice: EmulatedChoice) -> Answer:
    def answer(workload: Workload, system: str, emulator: Emulator) -> dict[str, Any] | None:
        emulation = emulator.emulate(workload, system, _typed(system, choice))
        if not emulation.fits:
            return None
        how = "grid" if choice.is_whole_search else "settings"
        found = _without_machine(emulation)
        return {"how": how, "found": found, "trials": choice.points, "file": choice.file}

    return answer


def _first_that_fits(workload: Workload, system: str, emulator: Emulator) -> dict[str, Any]:
    """Counts are extrapolated from models of few layers, whose peaks a third model checks."""
    points = candidates(system, workload)
    reason = layouts_of(system, workload)[1] if not points else ""
    estimator = Estimator(system=system, emulator=emulator)
    for number, point in enumerate(points, 1):
        (estimate,) = estimator.estimates(workload, [point], "settings", checked=True)
        assert estimate is not None, "no budget ends it"
        reason = estimate.emulation.reason
        if estimate.emulation.fits:
            return {
                "how": "settings",
                "found": _without_machine(estimate.emulation),
                "layers": list(estimate.layers),
                "trials": number,
            }
    return {"how": "settings", "found": None, "reason": reason, "trials": len(points)}


def _begin(parent: Mapping[str, str]) -> None:
    """Begin a planning process: it ends with the command, which alone answers Ctrl-C."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.environ.update(parent)
    end_with_parent(signal.SIGKILL)


def _without_machine(found: Emulation | None) -> Emulation | None:
    """The answer without what the machine says of itself."""
    if found is None:
        return None
    roles = [
        msgspec.structs.replace(role, seconds=None, process_peak_bytes=None, reused=False)
        for role in found.roles
    ]
    return msgspec.structs.replace(found, roles=roles, directory="", environment={})


def _why_none(result: SearchResult) -> str:
    """Why no setting fits: the reason of the leanest trial, or of the only refusal."""
    held = [trial for trial in result.trials if trial.peak_device_bytes is not None]
    if held:
        leanest = min(held, key=lambda trial: trial.peak_device_bytes or 0)
        return f"{leanest.settings_text}: {leanest.reason or leanest.status}"
    return result.trials[0].reason if result.trials else "the grid has no layout for these ranks"


def _plan_line(plan: MapPlan) -> str:
    words = f"{plan.step_seconds:,.1f} s" if plan.step_seconds else plan.status
    return f"{plan.place.name}: {words}, planned in {plan.planning_seconds:.1f} s"


def _search_line(search: MapSearch) -> str:
    if search.found is None:
        return f"{search.system}: {search.reason}"
    seconds = search.found.simulated_time.step_seconds if search.found.simulated_time else None
    words = "no time" if seconds is None else f"{seconds:,.1f} s"
    return f"{search.system}: {search.found.settings_text}, {words}"
