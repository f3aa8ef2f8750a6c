"""Settings that committed emulations found: the fastest of a system's grid that fit, simulated.

`sppo-bench emulate SYSTEM WORKLOAD --tuned --publish` and `sppo-bench paper --emulate --publish`
write them to results/published/emulation/. They take the place of a measured grid where there is
none, as on a cluster in its first hour.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec

from baselines import registry
from baselines.protocol import Adapter, Unavailable
from benchmarks.records import store
from benchmarks.records.provenance import commit_words
from benchmarks.records.store import RecordError
from benchmarks.rows.versions import other_libraries
from benchmarks.workloads import of_flags
from sppo.config.errors import NotSupported
from sppo.config.sizes import limit_words
from sppo.config.workload import Workload

POINTS_SCHEMA = "sppo-paper-points/1"
SEARCH_SCHEMA = "sppo-emulated-search/1"


@dataclass(frozen=True, kw_only=True)
class EmulatedChoice:
    """The answer of a search: settings of a system on a workload, their peaks and their step.

    settings: empty in older files, which have the text alone. points: those that were emulated.
    workload: its device memory is the limit of the search. file: its name. environment: as in
    records. is_whole_search: whether the file is that of a search that has tried all settings.
    """

    workload: Workload
    settings: dict[str, Any]
    settings_text: str
    peak_device_bytes: int
    peak_host_bytes: int
    step_seconds: float
    points: int
    file: str
    environment: dict[str, Any]
    is_whole_search: bool = False

    def source(self, system: str, workload: Workload) -> str:
        """The origin in words, for a row of this workload."""
        count, limit = self.workload.sequences_per_step, self.workload.device_memory_bytes
        differences = [
            f" at {count} sequences a step" * (count != workload.sequences_per_step),
            f" under {limit_words(limit)}" * (limit != workload.device_memory_bytes),
        ]
        words = (
            f"emulated choice: fastest that fits of {self.points} points{''.join(differences)}, by "
            f"simulated times (emulation/{self.file}, {commit_words(self.environment)})"
        )
        stale = other_libraries(system, self.environment.get("versions", {}))
        return "; ".join(filter(None, (words, stale)))


def choose(system: str, workload: Workload) -> tuple[dict[str, Any], str] | None:
    """The settings for a workload and their source, or None without any that fit.

    Raises RecordError on a damaged file.
    """
    found = choice_for(system, workload)
    if found is None:
        return None
    choice, settings = found
    return settings, choice.source(system, workload)


def choice_for(system: str, workload: Workload) -> tuple[EmulatedChoice, dict[str, Any]] | None:
    """The choice for a workload and its settings of today, or None without any that fit.

    A choice for the same sequences a step and limit comes first. More sequences need no less
    memory, so a choice for more sequences fits too, if the library takes the settings. Raises
    RecordError on a damaged file.
    """
    known = [each for each in _choices(system, workload) if _fits(each, workload)]

    def order(choice: EmulatedChoice) -> tuple[int, bool, float]:
        other_limit = choice.workload.device_memory_bytes != workload.device_memory_bytes
        return choice.workload.sequences_per_step, other_limit, choice.step_seconds

    for choice in sorted(known, key=order):
        settings = _settings(choice, registry.load(system), workload)
        if settings is not None:
            return choice, settings
    return None


def answer_of_search(system: str, workload: Workload) -> EmulatedChoice | None:
    """The answer of a whole search for the same sequences a step and limit, with today's settings.

    Raises RecordError on a damaged file.
    """
    for choice in _choices(system, workload):
        own = choice.workload
        is_same = (own.sequences_per_step, own.device_memory_bytes) == (
            workload.sequences_per_step,
            workload.device_memory_bytes,
        )
        if choice.is_whole_search and is_same and _fits(choice, workload):
            settings = _settings(choice, registry.load(system), workload)
            return None if settings is None else replace(choice, settings=settings)
    return None


def _fits(choice: EmulatedChoice, workload: Workload) -> bool:
    """Whether model, data, ranks and their nodes are the same, and both memories hold the peaks."""
    ours, asked = choice.workload, workload

    def work(each: Workload) -> tuple[Any, ...]:
        return each.model, each.dtype, each.sequence_tokens, each.cluster

    if work(ours) != work(asked) or ours.sequences_per_step < asked.sequences_per_step:
        return False
    memories = (
        (choice.peak_device_bytes, asked.device_memory_bytes),
        (choice.peak_host_bytes, asked.host_memory_bytes),
    )
    return all(limit is None or peak <= limit for peak, limit in memories)


def _settings(
    choice: EmulatedChoice, adapter: Adapter, workload: Workload
) -> dict[str, Any] | None:
    """The settings, rebuilt exactly; None where the adapter of today does not take them.

    Of an older file they are the point of the grid with the same text, if there is only one.
    """
    settings = choice.settings
    if not settings:
        grid = adapter.grid(choice.workload)
        same = [point for point in grid if adapter.describe(point) == choice.settings_text]
        if len(same) != 1:
            return None
        settings = msgspec.to_builtins(same[0])
    try:
        adapter.check(workload, msgspec.convert(settings, adapter.settings_type))
    except (Unavailable, NotSupported, msgspec.ValidationError):
        return None
    return settings


def _choices(system: str, workload: Workload) -> Iterator[EmulatedChoice]:
    """The choices of a system for this model on so many ranks. Raises RecordError."""
    folder = store.published_directory() / "emulation"
    for path in store.readable_files(folder, "*.json"):
        data = path.read_bytes()
        try:
            schema = msgspec.json.decode(data, type=_Head).schema
            if schema == POINTS_SCHEMA:
                yield from _of_points(path, data, system, workload)
            elif schema == SEARCH_SCHEMA:
                yield from _of_search(path, data, system)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise RecordError(f"{path}: {error}; restore the file, or delete it") from None


class _Head(msgspec.Struct):
    schema: str = ""


class _Verdict(msgspec.Struct):
    """What is read of a verdict of `benchmarks.paper.verdicts`."""

    model: str
    seq: str
    gpus: int
    system: str
    settings_text: str
    status: str
    peak_device_bytes: int | None
    peak_host_bytes: int | None
    capacity_bytes: int | None
    step_seconds: float | None
    settings: dict[str, Any] = {}
    at_best: bool = False
    trials: int = 1
    search_file: str = ""


class _Points(msgspec.Struct):
    hardware: str
    sequences_per_step: int
    verdicts: list[_Verdict]
    environment: dict[str, Any]


def _of_points(
    path: Path, data: bytes, system: str, workload: Workload
) -> Iterator[EmulatedChoice]:
    """The rows "at its best" of the paper's points, but for answers of searches in other files."""
    points = msgspec.json.decode(data, type=_Points)
    wanted = system, workload.model.name, workload.cluster.ranks
    for verdict in points.verdicts:
        is_answer = verdict.at_best and verdict.status == "ok" and not verdict.search_file
        if not is_answer or (verdict.system, verdict.model, verdict.gpus) != wanted:
            continue
        if verdict.peak_device_bytes is None or verdict.step_seconds is None:
            continue
        try:
            emulated = of_flags(
                model=verdict.model,
                seq=verdict.seq,
                gpus=verdict.gpus,
                hardware=points.hardware,
            )
        except (ValueError, NotSupported):
            continue  # a model or a profile that this code no longer has
        yield EmulatedChoice(
            workload=replace(
                emulated,
                sequences_per_step=points.sequences_per_step,
                device_memory_bytes=verdict.capacity_bytes,
            ),
            settings=verdict.settings,
            settings_text=verdict.settings_text,
            peak_device_bytes=verdict.peak_device_bytes,
            peak_host_bytes=verdict.peak_host_bytes or 0,
            step_seconds=verdict.step_seconds,
            points=verdict.trials,
            file=path.name,
            environment=points.environment,
        )


class _Role(msgspec.Struct):
    peak_device_bytes: int | None
    peak_host_bytes: int | None


class _Time(msgspec.Struct):
    step_seconds: float


class _Found(msgspec.Struct):
    settings: dict[str, Any]
    settings_text: str
    roles: list[_Role]
    simulated_time: _Time | None
    environment: dict[str, Any]


class _Search(msgspec.Struct):
    """What is read of a `benchmarks.emulation.search.SearchResult`."""

    workload: Workload
    system: str
    longest_tokens: int | None
    found: _Found | None
    trials: list[msgspec.Raw]
    unanswered: str
    not_tried: list[str] = []


def _of_search(path: Path, data: bytes, system: str) -> Iterator[EmulatedChoice]:
    """The answer of `emulate --tuned`."""
    search = msgspec.json.decode(data, type=_Search)
    found = search.found
    if search.system != system or search.longest_tokens is not None or found is None:
        return
    device = [role.peak_device_bytes for role in found.roles if role.peak_device_bytes is not None]
    host = [role.peak_host_bytes or 0 for role in found.roles]
    if not device or found.simulated_time is None:
        return
    yield EmulatedChoice(
        workload=search.workload,
        settings=found.settings,
        settings_text=found.settings_text,
        peak_device_bytes=max(device),
        peak_host_bytes=max(host),
        step_seconds=found.simulated_time.step_seconds,
        points=len(search.trials),
        file=path.name,
        environment=found.environment,
        is_whole_search=not (search.unanswered or search.not_tried),
    )
