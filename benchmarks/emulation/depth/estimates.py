"""Peak and time of settings, from emulations of a few layers where layers are alike.

Where they are not, or where a model has few layers, the whole model is emulated instead.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field, replace
from threading import Event
from typing import Any

import msgspec

from baselines import registry
from baselines.protocol import Adapter, Misfit, Role, Unavailable, roles_of
from benchmarks.emulation import processes, resuming
from benchmarks.emulation.cache import code_digest
from benchmarks.emulation.depth.budget import SearchBudget
from benchmarks.emulation.depth.cuts import Cut, Cuts, cuts_of, pipeline_stages
from benchmarks.emulation.depth.extrapolate import NotAlike, check_peak, extrapolated
from benchmarks.emulation.depth.progress import countdown
from benchmarks.emulation.emulator import Emulator, judged
from benchmarks.emulation.result import Emulation, RoleReport
from benchmarks.emulation.search import EmulationTrial, trial_of
from benchmarks.environment import available_cores
from benchmarks.records import store
from sppo.config.workload import Workload

FOLDER = "depths"
"""The folder of the emulated ranks, in the search's folder."""

LONG_PIPELINE = 3
"""Stages beyond which not every stage is emulated for an estimate."""

PEAK_MARGIN = 0.01
"""An extrapolated peak is a lower bound where layers are alike. Peaks above the capacity by at most
this share are emulated whole all the same. Measured: docs/emulation.md, "Searches"."""


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """One setting. emulation: the expected one, without roles where the library refuses.

    layers: of the models whose counts are extrapolated; none where the whole model was emulated.
    """

    settings: Any
    emulation: Emulation
    layers: tuple[int, ...] = ()

    @property
    def trial(self) -> EmulationTrial:
        """The estimate as a trial of a search."""
        trial = trial_of(self.emulation)
        if not self.layers:
            return trial
        return msgspec.structs.replace(trial, emulated="extrapolated", layers=list(self.layers))

    @property
    def may_fit(self) -> bool:
        """Whether the whole model may fit, by a peak that may be lower than the whole model's."""
        emulation = self.emulation
        if emulation.fits or not self.layers:
            return bool(emulation.fits)
        capacities = (emulation.capacity_bytes, emulation.host_capacity_bytes)
        for role in emulation.roles:
            if role.counts is None:
                return False
            peaks = (role.counts.peak_device_bytes, role.counts.peak_host_bytes)
            for peak, capacity in zip(peaks, capacities, strict=True):
                if capacity is not None and peak > (1 + PEAK_MARGIN) * capacity:
                    return False
        return True


@dataclass(frozen=True, kw_only=True)
class _Rank:
    """A rank to emulate, of a cut model or of the whole one."""

    cut: Cut
    role: Role

    def key(self, system: str) -> tuple[str, int]:
        """Equal for equal emulations."""
        return resuming.key(self.cut.workload, system, self.cut.settings), self.role.rank


@dataclass(kw_only=True)
class Estimator:
    """Estimates settings of one system, as many ranks at once as there are cores.

    Ranks that several settings share run once. The emulator's folder gets their files.
    """

    system: str
    emulator: Emulator
    budget: SearchBudget = field(default_factory=SearchBudget)
    _reports: dict[tuple[str, int], RoleReport] = field(default_factory=dict)

    @property
    def adapter(self) -> Adapter:
        """The adapter of the system."""
        return registry.load(self.system)

    def estimates(
        self, workload: Workload, settings: Sequence[Any], label: str, *, checked: bool = False
    ) -> list[Estimate | None]:
        """In the order of the settings; None where the budget was over before their ranks ran.

        label: of the progress. checked: by a further model each (`Cuts.check`). Raises OSError.
        """
        results = [self._refused(workload, point) for point in settings]
        able = [number for number, refusal in enumerate(results) if refusal is None]
        cuts = {number: self._cuts(workload, settings[number], checked) for number in able}
        unlike = self._fill(results, workload, settings, cuts, label)
        whole = {number: _whole(workload, settings[number]) for number in unlike}
        self._fill(results, workload, settings, whole, f"{label}, whole")
        return results

    def _fill(
        self,
        results: list[Estimate | None],
        workload: Workload,
        settings: Sequence[Any],
        cuts: Mapping[int, Cuts],
        label: str,
    ) -> list[int]:
        """Emulate the models of settings by number, and enter the estimates.

        The numbers of settings whose parts do not add up.
        """
        self._emulate([rank for models in cuts.values() for rank in self._ranks_of(models)], label)
        unlike = []
        for number, models in cuts.items():
            try:
                results[number] = self._estimate(workload, settings[number], models)
            except NotAlike as reason:
                text = self.adapter.describe(settings[number])
                self.emulator.progress.note(f"{text}: emulated whole, because of {reason}")
                unlike.append(number)
        return unlike

    def _refused(self, workload: Workload, settings: Any) -> Estimate | None:
        """The estimate of settings that the library refuses, or that do not divide; else None."""
        try:
            refusal = self.emulator.refusal(workload, self.system, settings)
        except Misfit as error:
            refusal = self.emulator.refused(workload, self.system, settings, error)
        return None if refusal is None else Estimate(settings=settings, emulation=refusal)

    def _cuts(self, workload: Workload, settings: Any, checked: bool) -> Cuts:
        """The models to emulate: cut ones that the library takes, else the whole one."""
        cuts = cuts_of(workload, settings)
        if cuts is None:
            return _whole(workload, settings)
        try:
            for cut in _models(cuts):
                self.adapter.check(cut.workload, cut.settings)
        except Unavailable:
            return _whole(workload, settings)
        return cuts if checked else replace(cuts, check=None)

    def _ranks_of(self, cuts: Cuts) -> list[_Rank]:
        """The ranks to emulate. Of a long pipeline the first two stages and the last.

        The second stage holds the most of the middle ones, and works as they do.
        """
        return [
            _Rank(cut=cut, role=role)
            for cut in _models(cuts)
            for role in _asked(roles_of(self.adapter, cut.workload, cut.settings), cut.settings)
        ]

    def _emulate(self, ranks: Sequence[_Rank], label: str) -> None:
        """Emulate the ranks that have no report yet, within the budget. Raises OSError."""
        waiting = {rank.key(self.system): rank for rank in ranks}
        waiting = {key: rank for key, rank in waiting.items() if key not in self._reports}
        if not waiting:
            return
        code, ended = code_digest(self.system), Event()

        def emulate(rank: _Rank) -> RoleReport | None:
            if ended.is_set() or self.budget.is_over_for_estimates:
                return None
            return self._report(rank, code, ended)

        with (
            countdown(self.emulator.progress, label, len(waiting)) as advance,
            ThreadPoolExecutor(available_cores()) as pool,
        ):
            running = {pool.submit(emulate, rank): key for key, rank in waiting.items()}
            try:
                for future in as_completed(running):
                    report = future.result()
                    if report is not None:
                        self._reports[running[future]] = report
                    advance()
            finally:
                ended.set()
                pool.shutdown(cancel_futures=True)

    def _report(self, rank: _Rank, code: str, ended: Event) -> RoleReport:
        """Emulate one rank, in a folder of its own."""
        asked, number = rank.key(self.system)
        name = f"{hashlib.sha256(asked.encode()).hexdigest()[:16]}-{number}"
        directory = self.emulator.parent / FOLDER / name
        directory.mkdir(parents=True, exist_ok=True)
        job = processes.make_job(rank.cut.workload, self.adapter, rank.cut.settings, directory)
        store.write_bytes(directory / "job.json", store.to_json(job))
        return self.emulator.report(rank.role, job, code, ended)

    def _estimate(self, workload: Workload, settings: Any, cuts: Cuts) -> Estimate | None:
        """The sum of the parts; None where a model was not emulated. Raises NotAlike."""
        asked: dict[str, list[RoleReport]] = {}
        for rank in self._ranks_of(cuts):
            report = self._reports.get(rank.key(self.system))
            if report is None:
                return None
            asked.setdefault(rank.role.name, []).append(report)
        roles = roles_of(self.adapter, workload, settings)
        sums = [_sum(cuts, models) for models in asked.values()]
        reports = [
            msgspec.structs.replace(
                sums[_stand_in(number, len(roles), len(sums))],
                role=role.name,
                rank=role.rank,
                ranks=role.ranks,
            )
            for number, role in enumerate(roles)
        ]
        is_whole = len(cuts.parts) == 1 and len(sums) == len(roles)
        layers = () if is_whole else tuple(sorted({cut.layers for cut in _models(cuts)}))
        emulation = judged(workload, self.adapter, settings, reports)
        return Estimate(settings=settings, emulation=emulation, layers=layers)


def _whole(workload: Workload, settings: Any) -> Cuts:
    return Cuts(parts=(Cut(workload=workload, settings=settings),))


def _models(cuts: Cuts) -> tuple[Cut, ...]:
    """All models to emulate, the check last."""
    return cuts.parts if cuts.check is None else (*cuts.parts, cuts.check)


def _asked(roles: Sequence[Role], settings: Any) -> Sequence[Role]:
    stages = pipeline_stages(settings)
    return (*roles[:2], roles[-1]) if len(roles) == stages > LONG_PIPELINE else roles


def _stand_in(number: int, roles: int, asked: int) -> int:
    """Which of the emulated roles stands for the role of this number."""
    if asked == roles:
        return number
    return asked - 1 if number == roles - 1 else min(number, 1)


def _sum(cuts: Cuts, reports: Sequence[RoleReport]) -> RoleReport:
    """The report of a whole role from those of all models, the check's last.

    Raises NotAlike, also where a cut model did not end its step.
    """
    if len(cuts.parts) == 1:
        return reports[0]
    for report in reports:
        if report.counts is None:
            raise NotAlike(f"{report.role}, {report.phase}: {report.reason}")
    parts = reports[: len(cuts.parts)]
    if cuts.check is not None:
        check_peak(reports[-1], list(zip(cuts.expected, parts, strict=True)))
    factors = [cut.factor for cut in cuts.parts]
    return extrapolated(list(zip(factors, parts, strict=True)))
