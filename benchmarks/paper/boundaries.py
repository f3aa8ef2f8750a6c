"""The paper's 15 points (table 4, fig. 10) and its longest sequences (fig. 12), emulated.

Every verdict is of the system's own code at full size, under the rules of `readings.py` and the
profile's memory, both fixed beforehand.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import msgspec

from baselines import registry
from baselines.protocol import Misfit, Planner, roles_of
from benchmarks.emulation.emulator import Emulator
from benchmarks.emulation.result import Emulation, Planned
from benchmarks.emulation.search import STEP_TOKENS, Searcher, SearchResult, longest
from benchmarks.job import Status
from benchmarks.paper import reported
from benchmarks.paper.readings import LONGEST_MODEL, READINGS, Reading, Word
from benchmarks.paper.reported import ReportedPoint
from benchmarks.workloads import of_flags
from sppo.config.models import MODELS
from sppo.config.workload import Workload

SCHEMA = "sppo-paper-points/1"

LONGEST_AT_MOST_FACTOR = 3
"""No search of fig. 12 asks for more than so many times the paper's longest."""


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """One system at one point.

    says: the paper's word, None where it is silent. agrees: None too where a role broke. peak and
    at_peak_by_kind: of the fullest of the `roles_emulated` of `roles`, bytes; None where none ran.
    step_seconds: simulated, None unless all roles ran. planned: of SPPO, beside the counts.
    """

    model: str
    seq: str
    gpus: int
    reading: str
    system: str
    settings_text: str
    status: Status
    reason: str
    says: Word | None
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


class Longest(msgspec.Struct, frozen=True, kw_only=True):
    """One system of fig. 12 on so many GPUs; tokens.

    says_tokens: 0 is "cannot run", None where the paper is silent. peaks: of the longest that fits,
    by role that was emulated, of `roles`, bytes. beyond: why one step more does not fit.
    unanswered: what broke or took too long, so that more may fit.
    """

    gpus: int
    reading: str
    system: str
    settings_text: str
    sequences_per_step: int
    longest_tokens: int
    says_tokens: int | None
    peak_device_bytes: dict[str, int]
    peak_host_bytes: dict[str, int]
    roles: int
    beyond: str
    unanswered: str
    planned: list[Planned] = []


class PaperPoints(msgspec.Struct, frozen=True, kw_only=True):
    """All of it, with what it rests on."""

    schema: str = SCHEMA
    label: str = "emulated"
    hardware: str
    sequences_per_step: int
    rules: dict[str, str]
    step_tokens: int
    verdicts: list[Verdict]
    longest: list[Longest]
    environment: dict[str, Any]


def words_of(found: Emulation) -> Word | None:
    """An emulated verdict in the paper's words; None where a role broke or did not divide."""
    if found.status == "unavailable":
        return "cannot run"
    return None if found.fits is None else ("fits" if found.fits else "oom")


def workload_of(point: ReportedPoint, sequences_per_step: int) -> Workload:
    """The point on the paper's hardware."""
    workload = of_flags(
        model=point.model,
        seq=point.seq,
        gpus=point.gpus,
        hardware=reported.ABLATION_HARDWARE,
    )
    return replace(workload, sequences_per_step=sequences_per_step)


def verdicts(
    readings: Sequence[Reading],
    points: Sequence[ReportedPoint],
    emulator: Emulator,
    sequences_per_step: int,
) -> Iterator[Verdict]:
    """One by one, so that each can be kept as soon as it is known.

    A row that does not count is left out where the paper is silent.
    """
    for point in points:
        workload = workload_of(point, sequences_per_step)
        for reading in readings:
            if not reading.counted and reading.says(point) is None:
                continue
            emulator.progress.note(f"{point.model}, {point.seq}, {point.gpus} GPUs: {reading.name}")
            yield _verdict(reading, point, workload, emulator)


def _verdict(
    reading: Reading, point: ReportedPoint, workload: Workload, emulator: Emulator
) -> Verdict:
    settings = reading.settings(point)
    try:
        found = emulator.emulate(workload, reading.system, settings)
        word = words_of(found)
    except Misfit as error:  # other sequences a step would do: no verdict on the layout
        found = emulator.refused(workload, reading.system, settings, error)
        word = None
    says = reading.says(point)
    worst = max(found.roles, key=lambda role: role.peak_device_bytes or 0, default=None)
    counts = None if worst is None else worst.counts
    time = found.simulated_time
    return Verdict(
        model=point.model,
        seq=point.seq,
        gpus=point.gpus,
        reading=reading.name,
        system=reading.system,
        settings_text=settings_words(found),
        status=found.status,
        reason=found.reason,
        says=says,
        agrees=None if says is None or word is None else says == word,
        counted=reading.counted,
        peak_device_bytes=None if counts is None else counts.peak_device_bytes,
        peak_host_bytes=None if counts is None else counts.peak_host_bytes,
        at_peak_by_kind_bytes={} if counts is None else counts.at_peak_by_kind_bytes,
        capacity_bytes=found.capacity_bytes,
        limiting_role=found.limiting_role,
        roles_emulated=len(found.roles),
        roles=role_count(found),
        step_seconds=None if time is None else time.step_seconds,
        planned=found.planned,
    )


def role_count(found: Emulation) -> int:
    """How many roles these settings have; 0 where they are refused."""
    if not found.roles:
        return 0
    adapter = registry.load(found.system)
    settings: Any = msgspec.convert(found.settings, adapter.settings_type)
    return len(roles_of(adapter, found.workload, settings))


def settings_words(found: Emulation) -> str:
    """The settings; of a system that plans the plan that they lead to."""
    adapter = registry.load(found.system)
    if not isinstance(adapter, Planner) or found.status == "infeasible":
        return found.settings_text
    settings: Any = msgspec.convert(found.settings, adapter.settings_type)
    plan = adapter.plan(found.workload, settings)
    return f"{plan.degrees_words}, N {plan.subsequences}"


def longest_rows(
    readings: Sequence[Reading],
    gpus: Sequence[int],
    emulator: Emulator,
    sequences_per_step: int,
) -> Iterator[Longest]:
    """Fig. 12: gpt-7b on so many GPUs, searched from where the paper's SPPO ends.

    A row is left out where the paper is silent.
    """
    for count in gpus:
        for reading in readings:
            if reading.says_longest(count) is None:
                continue
            point = _longest_point(count)
            workload = workload_of(point, sequences_per_step)
            emulator.progress.note(f"longest: {count} GPUs: {reading.name}")
            searcher = Searcher(
                workload=workload,
                system=reading.system,
                emulator=replace(emulator, hasty=True),
            )
            settings = reading.settings(point)
            try:
                most = LONGEST_AT_MOST_FACTOR * workload.sequence_tokens
                found = longest(searcher, [settings], most)
            except Misfit as error:
                emulator.progress.note(str(error))
                continue
            yield _longest(reading, found)


def _longest_point(gpus: int) -> ReportedPoint:
    """A point of fig. 12, which states no degrees: table 4's of 7B, with stages to fill it up.

    Its length, where the search begins, is the paper's of SPPO.
    """
    known = next(point for point in reported.points() if point.model == LONGEST_MODEL)
    tensor = min(gpus, MODELS[LONGEST_MODEL].heads)
    return replace(
        known,
        gpus=gpus,
        seq=reported.longest("sppo", LONGEST_MODEL, gpus) or known.seq,
        pipeline_parallel=gpus // known.sequence_parallel,
        tuned_megatron=(tensor, gpus // tensor),
    )


def _longest(reading: Reading, found: SearchResult) -> Longest:
    roles = [] if found.found is None else found.found.roles
    tokens = found.longest_tokens or 0
    failed = [
        trial for trial in found.trials if trial.tokens == tokens + STEP_TOKENS and trial.reason
    ]
    gpus = found.workload.cluster.ranks
    return Longest(
        gpus=gpus,
        reading=reading.name,
        system=reading.system,
        settings_text="" if found.found is None else settings_words(found.found),
        sequences_per_step=found.workload.sequences_per_step,
        longest_tokens=tokens,
        says_tokens=reading.says_longest(gpus),
        peak_device_bytes={role.role: role.peak_device_bytes or 0 for role in roles},
        peak_host_bytes={role.role: role.peak_host_bytes or 0 for role in roles},
        roles=0 if found.found is None else role_count(found.found),
        beyond=failed[-1].reason if failed else "",
        unanswered=found.unanswered,
        planned=[] if found.found is None else found.found.planned,
    )


def rules(readings: Sequence[Reading] = READINGS) -> dict[str, str]:
    """Name -> rule, for the head of a table."""
    return {reading.name: reading.rule for reading in readings}
