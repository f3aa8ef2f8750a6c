"""From the JSON of `sppo-bench check` to an entry: the main numbers of each topic, without a clock.

A check writes what differs from the expected values. So its numbers are the expected values of its
commit, with these differences.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from benchmarks.environment import CHECKOUT, git_state
from benchmarks.records.store import check_schema
from benchmarks.regression import git
from benchmarks.regression.check.record import SCHEMA
from benchmarks.regression.history.entry import Entry, Machine, Metric, versions_of

SCALARS = {
    "simulation.makespan_ns": "ns",
    "prediction.bubble_share": "share",
    "simulated_time.step_seconds": "s",
}
"""Numbers of a case by their dotted key, and their units."""

LISTS = {"memory_bytes.total": "bytes"}
"""Numbers of each stage, of which the largest is kept."""

CALLS = "calls"
"""Under this key are calls by package, of which the sum is kept."""

WHOLE_CASE = ("the case", "status")
"""A difference under these keys: the case is gone, is new, or failed."""

OUTCOMES = ("as expected", "changed", "written")
"""Topics with another outcome were not compared."""

Case = Mapping[str, Any]


class Difference(msgspec.Struct, frozen=True, kw_only=True):
    """A value that differs. new: the value; None where there is none any more."""

    case: str
    key: str
    new: Any = None


class TopicResult(msgspec.Struct, frozen=True, kw_only=True):
    """A topic of a check."""

    topic: str
    outcome: str
    differences: list[Difference] = []


class CheckFile(msgspec.Struct, frozen=True, kw_only=True):
    """The part of the file that is read.

    expected: the folder of expected values, where it was not the default one.
    """

    topics: list[TopicResult]
    environment: dict[str, Any]
    expected: str | None = None


def entry_of_check(path: Path, data: bytes) -> Entry:
    """The entry of a check's file. Raises ValueError."""
    check_schema(path, data, SCHEMA)
    try:
        read = msgspec.json.decode(data, type=CheckFile)
    except msgspec.ValidationError as error:
        raise ValueError(f"{path}: {error}; make it by `sppo-bench check --json`") from None
    commit = read.environment.get("commit") or ""
    dirty = bool(read.environment.get("dirty"))
    metrics: list[Metric] = []
    for topic in read.topics:
        if topic.outcome in OUTCOMES:
            known = commit and read.expected is None
            cases = _expected_cases(topic.topic, commit, dirty=dirty) if known else {}
            metrics += _changed(topic), *_numbers(topic, cases)
    modified = datetime.fromtimestamp(path.stat().st_mtime, UTC)
    return Entry(
        kind="check",
        date=git.commit_date(commit, CHECKOUT) or f"{modified:%Y-%m-%dT%H:%M:%SZ}",
        commit=commit,
        dirty=dirty,
        machine=Machine.of(read.environment),
        versions=versions_of(read.environment),
        metrics=metrics,
        source=path.name,
    )


def _expected_cases(topic: str, commit: str, *, dirty: bool) -> Mapping[str, Case]:
    """The expected values of that commit, or of the working tree with changes; else none.

    Of a check with changes only where the checkout is still at that commit.
    """
    name = f"results/expected/{topic}.json"
    if dirty and git_state(CHECKOUT)[0] != commit:
        return {}
    try:
        data = (CHECKOUT / name).read_bytes() if dirty else git.file_at(commit, name, CHECKOUT)
        cases: Mapping[str, Case] = msgspec.json.decode(data)["cases"]
    except (OSError, ValueError, KeyError):
        return {}
    return cases


def _changed(topic: TopicResult) -> Metric:
    """How many values differ from the expected ones."""
    name = f"{topic.topic}/changed_values"
    return Metric(name=name, value=len(topic.differences), unit="count", exact=True)


def _numbers(topic: TopicResult, cases: Mapping[str, Case]) -> Iterator[Metric]:
    """The main numbers of each case, except of a case that failed, came, went or lost a part."""
    for name, case in cases.items():
        new = {each.key: each.new for each in topic.differences if each.case == name}
        if any(key in WHOLE_CASE or _is_above_a_number(key) for key in new):
            continue
        for key, unit in SCALARS.items():
            value = new.get(key, _at(case, key))
            if isinstance(value, int | float):
                yield _metric(topic, name, key, value, unit)
        for key, unit in LISTS.items():
            values = _at(case, key)
            known = not any(changed.startswith(key) for changed in new)
            if known and isinstance(values, list) and values:
                yield _metric(topic, name, key, max(values), unit)
        calls = case.get(CALLS)
        if isinstance(calls, dict):
            expected = {f"{CALLS}.{package}": count for package, count in calls.items()}
            changed = {key: count for key, count in new.items() if key.startswith(f"{CALLS}.")}
            counts = {**expected, **changed}.values()
            yield _metric(topic, name, CALLS, sum(filter(None, counts)), "count")


def _is_above_a_number(key: str) -> bool:
    """Whether one of the numbers that are read stands below this key."""
    return key == CALLS or any(number.startswith(f"{key}.") for number in (*SCALARS, *LISTS))


def _metric(topic: TopicResult, case: str, key: str, value: float, unit: str) -> Metric:
    quantity = "peak_bytes" if key in LISTS else key.rpartition(".")[2]
    name = f"{topic.topic}/{case}/{quantity}"
    return Metric(name=name, value=value, unit=unit, exact=True)


def _at(case: Case, dotted: str) -> Any:
    value: Any = case
    for name in dotted.split("."):
        value = value.get(name) if isinstance(value, dict) else None
    return value
