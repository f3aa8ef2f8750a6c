"""The paper's 15 points (table 4, fig. 10) and its longest sequences (fig. 12), emulated.

Every verdict comes from the system's own code at full size. The layout rules (`layout_rules.py`)
and the profile's memory are fixed beforehand.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import msgspec

from baselines import registry
from baselines.protocol import Misfit, Planner, roles_of
from benchmarks.emulation.emulator import Emulator
from benchmarks.emulation.result import Emulation, Planned, stale_text
from benchmarks.emulation.search import STEP_TOKENS, Searcher, SearchResult, longest
from benchmarks.job import Status
from benchmarks.paper import reported
from benchmarks.paper.layout_rules import LONGEST_MODEL, LayoutRule, Outcome
from benchmarks.paper.reported import ReportedPoint
from sppo.config.models import MODELS

SCHEMA = "sppo-paper-points/1"

LONGEST_AT_MOST_FACTOR = 3
"""A search of fig. 12 ends at this multiple of the paper's longest."""


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """One system at one point.

    paper_outcome: None if the paper is silent. agrees: None also if a role broke.
    peak_device_bytes, peak_host_bytes, at_peak_by_kind_bytes: of the fullest role, None or empty if
    none ran. roles_emulated: of all `roles`. step_seconds: simulated, None unless all roles ran.
    planned: SPPO's predictions beside the counts.
    """

    model: str
    seq: str
    gpus: int
    rule_name: str = msgspec.field(name="reading")
    system: str
    settings_text: str
    status: Status
    reason: str
    paper_outcome: Outcome | None = msgspec.field(name="says")
    agrees: bool | None
    counted: bool
    peak_device_bytes: int | None
    peak_host_bytes: int | None
    at_peak_by_kind_bytes: dict[str, int]
    capacity_bytes: int | None
    limiting_role: str | None
    roles_emulated: int
    roles: int
    step_seconds: float | None
    planned: list[Planned] = []


class LongestVerdict(msgspec.Struct, frozen=True, kw_only=True):
    """The longest sequence of one system on so many GPUs (fig. 12), in tokens.

    paper_tokens: 0 for "cannot run", None if the paper is silent. peak_device_bytes and
    peak_host_bytes: by emulated role (of all `roles`), at the longest that fits. beyond: why one
    step more does not fit. unanswered: what broke or took too long, so that more may fit.
    """

    gpus: int
    rule_name: str = msgspec.field(name="reading")
    system: str
    settings_text: str
    sequences_per_step: int
    longest_tokens: int
    paper_tokens: int | None = msgspec.field(name="says_tokens")
    peak_device_bytes: dict[str, int]
    peak_host_bytes: dict[str, int]
    roles: int
    beyond: str
    unanswered: str
    planned: list[Planned] = []


class PaperPoints(msgspec.Struct, frozen=True, kw_only=True):
    """The verdicts of fig. 10 or the longest sequences of fig. 12, with rules and environment."""

    schema: str = SCHEMA
    label: str = "emulated"
    hardware: str
    sequences_per_step: int
    rules: dict[str, str]
    step_tokens: int
    verdicts: list[Verdict]
    longest: list[LongestVerdict]
    environment: dict[str, Any]

    @property
    def is_broken(self) -> bool:
        """Whether a role failed or a search was not answered."""
        failed = any(verdict.status in ("failed", "timeout") for verdict in self.verdicts)
        return failed or any(verdict.unanswered for verdict in self.longest)


def outcome_of(emulation: Emulation) -> Outcome | None:
    """An emulated status in the paper's words; None if a role broke."""
    if emulation.status == "unavailable":
        return "cannot run"
    return None if emulation.fits is None else ("fits" if emulation.fits else "oom")


@dataclass(frozen=True, kw_only=True)
class PaperComparison:
    """The rows and points to emulate. sequences_per_step: of every system at every point."""

    rules: Sequence[LayoutRule]
    points: Sequence[ReportedPoint]
    emulator: Emulator
    sequences_per_step: int

    def verdicts(self) -> Iterator[Verdict]:
        """The verdicts of fig. 10, one by one, so that each can be saved at once.

        A row that does not count is left out where the paper is silent.
        Raises NotSupported, ValueError or OSError.
        """
        for point in self.points:
            for rule in self.rules:
                if rule.counted or rule.paper_outcome(point) is not None:
                    place = f"{point.model}, {point.seq}, {point.gpus} GPUs"
                    self.emulator.progress.note(f"{place}: {rule.name}")
                    yield self._verdict(rule, point)

    def _emulated(self, rule: LayoutRule, point: ReportedPoint) -> tuple[Emulation, Outcome | None]:
        """The first settings of the row that fit, or its leanest."""
        workload = point.workload(sequences_per_step=self.sequences_per_step)
        for settings in (*rule.faster(point), rule.settings(point)):
            try:
                emulation = self.emulator.emulate(workload, rule.system, settings)
                outcome = outcome_of(emulation)
            except Misfit as error:
                # Another number of sequences would divide: no verdict on the layout.
                emulation = self.emulator.refused(workload, rule.system, settings, error)
                outcome = None
            if outcome == "fits":
                break
        return emulation, outcome

    def _verdict(self, rule: LayoutRule, point: ReportedPoint) -> Verdict:
        emulation, outcome = self._emulated(rule, point)
        paper_outcome = rule.paper_outcome(point)
        fullest = max(emulation.roles, key=lambda role: role.peak_device_bytes or 0, default=None)
        counts = None if fullest is None else fullest.counts
        time = emulation.simulated_time
        settings_text, roles = layout_of(emulation)
        return Verdict(
            model=point.model,
            seq=point.seq,
            gpus=point.gpus,
            rule_name=rule.name,
            system=rule.system,
            settings_text=settings_text,
            status=emulation.status,
            reason=emulation.reason,
            paper_outcome=paper_outcome,
            agrees=None if None in (paper_outcome, outcome) else paper_outcome == outcome,
            counted=rule.counted,
            peak_device_bytes=None if counts is None else counts.peak_device_bytes,
            peak_host_bytes=None if counts is None else counts.peak_host_bytes,
            at_peak_by_kind_bytes={} if counts is None else counts.at_peak_by_kind_bytes,
            capacity_bytes=emulation.capacity_bytes,
            limiting_role=emulation.limiting_role,
            roles_emulated=len(emulation.roles),
            roles=roles,
            step_seconds=None if time is None else time.step_seconds,
            planned=emulation.planned,
        )

    def longest(self) -> Iterator[LongestVerdict]:
        """Fig. 12: gpt-7b on so many GPUs. Each search starts at the paper's longest of SPPO.

        A row of the paper is left out where the paper is silent.
        Raises NotSupported, ValueError or OSError.
        """
        for gpus in reported.longest_gpus():
            point = _longest_point(gpus)
            workload = point.workload(sequences_per_step=self.sequences_per_step)
            most_tokens = LONGEST_AT_MOST_FACTOR * workload.sequence_tokens
            for rule in self.rules:
                paper_tokens = rule.paper_longest(gpus)
                if paper_tokens is None and not rule.beyond_paper:
                    continue
                self.emulator.progress.note(f"longest: {gpus} GPUs: {rule.name}")
                emulator = replace(self.emulator, stop_at_first_oom=True)
                searcher = Searcher(workload=workload, system=rule.system, emulator=emulator)
                try:
                    search = longest(searcher, [rule.settings(point)], most_tokens)
                except Misfit as error:
                    emulator.progress.note(str(error))
                    continue
                yield _longest_verdict(rule, search, paper_tokens)


def layout_of(emulation: Emulation) -> tuple[str, int]:
    """The layout in words, of a planner its plan, and the number of roles; 0 if refused."""
    if not emulation.roles:
        return emulation.settings_text, 0
    adapter = registry.load(emulation.system)
    settings: Any = msgspec.convert(emulation.settings, adapter.settings_type)
    roles = len(roles_of(adapter, emulation.workload, settings))
    text = emulation.settings_text
    if isinstance(adapter, Planner):
        plan = adapter.plan(emulation.workload, settings)
        text = f"{plan.degrees_words}, N {plan.subsequences}"
    stale = stale_text(emulation.roles)
    return f"{text} ({stale})" if stale else text, roles


def _longest_point(gpus: int) -> ReportedPoint:
    """A point of fig. 12, which states no degrees: table 4's degrees of 7B with more stages.

    Its length is the paper's longest of SPPO.
    """
    known = next(point for point in reported.points() if point.model == LONGEST_MODEL)
    tensor = min(gpus, MODELS[LONGEST_MODEL].heads)
    tokens = reported.longest_tokens("sppo", LONGEST_MODEL, gpus)
    return replace(
        known,
        gpus=gpus,
        seq=str(tokens) if tokens else known.seq,
        pipeline_parallel=gpus // known.sequence_parallel,
        tuned_megatron=(tensor, gpus // tensor),
    )


def _longest_verdict(
    rule: LayoutRule, search: SearchResult, paper_tokens: int | None
) -> LongestVerdict:
    emulation = search.found
    tokens = search.longest_tokens or 0
    reasons = [trial.reason for trial in search.trials if trial.tokens == tokens + STEP_TOKENS]
    settings_text, count = ("", 0) if emulation is None else layout_of(emulation)
    roles = [] if emulation is None else emulation.roles
    return LongestVerdict(
        gpus=search.workload.cluster.ranks,
        rule_name=rule.name,
        system=rule.system,
        settings_text=settings_text,
        sequences_per_step=search.workload.sequences_per_step,
        longest_tokens=tokens,
        paper_tokens=paper_tokens,
        peak_device_bytes={role.role: role.peak_device_bytes or 0 for role in roles},
        peak_host_bytes={role.role: role.peak_host_bytes or 0 for role in roles},
        roles=count,
        beyond=next((reason for reason in reversed(reasons) if reason), ""),
        unanswered=search.unanswered,
        planned=[] if emulation is None else emulation.planned,
    )
