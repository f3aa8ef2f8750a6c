"""Verdicts of one system at one point of the paper, and how emulations become verdicts."""

from __future__ import annotations

from typing import Any

import msgspec

from baselines import registry
from baselines.protocol import Planner, roles_of
from benchmarks.emulation.result import Emulation, Planned, stale_text
from benchmarks.emulation.search import STEP_TOKENS, SearchResult
from benchmarks.job import Status
from benchmarks.paper.layout_rules import LayoutRule, Outcome
from benchmarks.paper.reported import ReportedPoint

SCHEMA = "sppo-paper-points/1"

AT_BEST, AS_THE_PAPER_RAN = "at its best", "as the paper ran it"
"""The two readings of a peer (docs/peers.md)."""


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """One system at one point.

    paper_outcome: None if the paper is silent. agrees: None also if a role broke.
    peak_device_bytes, peak_host_bytes, at_peak_by_kind_bytes: of the fullest role, None or empty if
    none ran. roles_emulated: of all `roles`. step_seconds: simulated, None unless all roles ran;
    `_if_hidden`: no message takes time. idle_share: of all ranks' time in `step_seconds`.
    at_best: whether the grid was searched, in so many `trials`; unanswered: as in a search.
    search_file: of the committed search whose answer was emulated here; "" if searched here.
    planned: SPPO's predictions beside the counts. settings: those of `settings_text`, complete;
    empty in older files, and where no settings fit.
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
    step_seconds_if_hidden: float | None = None
    idle_share: float | None = None
    at_best: bool = False
    trials: int = 1
    unanswered: str = ""
    search_file: str = ""
    planned: list[Planned] = []
    settings: dict[str, Any] = {}

    @property
    def reading_words(self) -> str:
        """ "at its best", "as the paper ran it"; "" of SPPO."""
        return reading_words(self.system, at_best=self.at_best)


def reading_words(system: str, *, at_best: bool) -> str:
    """How a peer is shown (docs/peers.md); "" of SPPO."""
    if system == "sppo":
        return ""
    return AT_BEST if at_best else AS_THE_PAPER_RAN


class LongestVerdict(msgspec.Struct, frozen=True, kw_only=True):
    """The longest sequence of one system on so many GPUs (fig. 12), in tokens.

    paper_tokens: 0 for "cannot run", None if the paper is silent. peak_device_bytes and
    peak_host_bytes: by emulated role (of all `roles`), at the longest that fits. beyond: why one
    step more does not fit. unanswered: what broke or took too long, so that more may fit. at_best:
    whether the grid was searched.
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
    at_best: bool = False
    planned: list[Planned] = []

    @property
    def reading_words(self) -> str:
        """ "at its best", "as the paper ran it"; "" of SPPO."""
        return reading_words(self.system, at_best=self.at_best)


class PaperPoints(msgspec.Struct, frozen=True, kw_only=True):
    """The verdicts of fig. 1 or 10, or the longest sequences of fig. 12, with their rules.

    figure: its number; "" in older files, whose verdicts are those of fig. 10.
    """

    schema: str = SCHEMA
    label: str = "emulated"
    figure: str = ""
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
        rows: list[Verdict | LongestVerdict] = [*self.verdicts, *self.longest]
        failed = any(verdict.status in ("failed", "timeout") for verdict in self.verdicts)
        return failed or any(row.unanswered for row in rows)


def outcome_of(emulation: Emulation) -> Outcome | None:
    """An emulated status in the paper's words; None if a role broke."""
    if emulation.status == "unavailable":
        return "cannot run"
    return None if emulation.fits is None else ("fits" if emulation.fits else "oom")


def verdict_of(
    rule: LayoutRule, point: ReportedPoint, emulation: Emulation, outcome: Outcome | None
) -> Verdict:
    """The verdict of an emulation; outcome: in the paper's words, None without a verdict."""
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
        step_seconds_if_hidden=None if time is None else time.step_seconds_if_hidden,
        idle_share=None if time is None else time.idle_share,
        at_best=rule.is_searched,
        planned=emulation.planned,
        settings=emulation.settings,
    )


def nothing_fits(rule: LayoutRule, point: ReportedPoint, search: SearchResult) -> Verdict:
    """The verdict of a search in which no settings fit: that of the trial with the least memory.

    A library that refuses every layout, or has none that divides, cannot run.
    """
    tried = [trial for trial in search.trials if trial.peak_device_bytes is not None]
    least = min(tried, key=lambda trial: trial.peak_device_bytes or 0, default=None)
    shown = least or next(iter(search.trials), None)
    return Verdict(
        model=point.model,
        seq=point.seq,
        gpus=point.gpus,
        rule_name=rule.name,
        system=rule.system,
        settings_text="" if shown is None else shown.settings_text,
        status="unavailable" if shown is None else shown.status,
        reason="no layout of the grid divides the workload" if shown is None else shown.reason,
        paper_outcome=None,
        agrees=None,
        counted=False,
        peak_device_bytes=None if least is None else least.peak_device_bytes,
        peak_host_bytes=None,
        at_peak_by_kind_bytes={},
        capacity_bytes=search.workload.device_memory_bytes,
        limiting_role=None if shown is None else shown.limiting_role,
        roles_emulated=0,
        roles=0,
        step_seconds=None,
        at_best=True,
        trials=len(search.trials),
        unanswered=search.unanswered,
    )


def longest_verdict(
    rule: LayoutRule, search: SearchResult, paper_tokens: int | None
) -> LongestVerdict:
    """The verdict of a search for the longest sequence."""
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
        at_best=rule.is_searched,
        planned=[] if emulation is None else emulation.planned,
    )


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
        text = f"{plan.sharding_words}, N {plan.subsequences}"
    stale = stale_text(emulation.roles)
    return f"{text} ({stale})" if stale else text, roles
