"""The check: measure topics, compare them with their files, and decide."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import msgspec
from msgspec import UNSET

from benchmarks.regression.check import expected
from benchmarks.regression.check.differences import (
    CaseValues,
    ValueDifference,
    compare,
    count_values,
)
from benchmarks.regression.check.expected import Expected
from benchmarks.regression.check.report import Change
from benchmarks.regression.check.topics import Lane, Topic
from benchmarks.regression.check.workers import Workers, failures

SCHEMA = "sppo-check/1"

Outcome = Literal["as expected", "changed", "skipped", "written", "not written"]

NOT_WORSE, CHANGED, WRONG_INPUT = 0, 1, 2
"""Exit codes."""


@dataclass(frozen=True, kw_only=True)
class TopicResult:
    """A topic's outcome. reason: of a skipped or unwritten one. values: how many were compared."""

    topic: str
    outcome: Outcome
    reason: str = ""
    values: int = 0
    differences: Sequence[ValueDifference] = field(default_factory=tuple)


def check(topics: Sequence[Topic], directory: Path, *, update: bool) -> Iterator[TopicResult]:
    """Measure and compare, or with `update` write, each topic as it ends.

    Raises ValueError before anything is measured: from a file, or a folder that cannot be written.
    """
    known: dict[str, Expected] = {}
    if update:
        expected.require_writable(directory)
    else:
        known = {topic.name: expected.read(directory, topic.name) for topic in topics}
    return _results(topics, known, directory, update=update)


def _results(
    topics: Sequence[Topic], known: dict[str, Expected], directory: Path, *, update: bool
) -> Iterator[TopicResult]:
    """Lanes in turn; topics of one lane have all begun before the first is waited for."""
    with closing(Workers()) as workers:
        for lane in get_args(Lane):
            begun = []
            for topic in (topic for topic in topics if topic.lane == lane):
                obstacle = "" if update or topic.portable else other_versions(topic, known)
                if obstacle:
                    yield TopicResult(topic=topic.name, outcome="skipped", reason=obstacle)
                else:
                    begun.append((topic, topic.start(workers)))
            for topic, collect in begun:
                if update:
                    yield _written(topic, collect(), directory)
                else:
                    yield _compared(topic, known, collect())


def other_versions(topic: Topic, known: dict[str, Expected]) -> str:
    """The versions that made the file where they are not those here; "" where they are."""
    made, here = known[topic.name].versions, expected.versions_here(topic.libraries)
    changed = [
        f"{name} {made.get(name, 'absent')} (here {here.get(name, 'absent')})"
        for name in sorted({*made, *here})
        if made.get(name) != here.get(name)
    ]
    return f"made with {', '.join(changed)}" if changed else ""


def _compared(topic: Topic, known: dict[str, Expected], actual: CaseValues) -> TopicResult:
    """Differences are no verdict where a portable topic was made with other versions."""
    differences = tuple(compare(known[topic.name].cases, actual, topic.tolerances))
    obstacle = other_versions(topic, known)
    if differences and obstacle:
        reason = f"{len(differences)} values differ, but the file was {obstacle}"
        return TopicResult(topic=topic.name, outcome="skipped", reason=reason)
    return TopicResult(
        topic=topic.name,
        outcome="changed" if differences else "as expected",
        values=_values(actual),
        differences=differences,
    )


def _written(topic: Topic, actual: CaseValues, directory: Path) -> TopicResult:
    """Write a topic's file, unless a case failed or nothing but noise within tolerances differs."""
    failed = failures(actual)
    if failed:
        return TopicResult(topic=topic.name, outcome="not written", reason="; ".join(failed))
    new = Expected(cases=actual, versions=expected.versions_here(topic.libraries))
    try:
        before = expected.read(directory, topic.name)
    except ValueError:
        before = None
    old = new if before is None else before
    differences = tuple(compare(old.cases, actual, topic.tolerances))
    is_new = before is None or bool(differences) or before.versions != new.versions
    if is_new:
        expected.write(directory, topic.name, new)
    return TopicResult(
        topic=topic.name,
        outcome="written" if is_new else "as expected",
        values=_values(actual),
        differences=differences,
    )


def _values(cases: CaseValues) -> int:
    return sum(count_values(case) for case in cases.values())


def exit_code(results: Sequence[TopicResult]) -> int:
    """0 as expected or written, 1 where something changed or failed, 2 where nothing was compared.

    A check that compares nothing must not pass.
    """
    outcomes = {result.outcome for result in results}
    if outcomes & {"changed", "not written"}:
        return CHANGED
    return WRONG_INPUT if outcomes <= {"skipped"} else NOT_WORSE


def changes(results: Sequence[TopicResult]) -> list[Change]:
    """The differences of all topics."""
    return [
        Change(topic=result.topic, difference=difference)
        for result in results
        for difference in result.differences
    ]


def as_record(
    results: Sequence[TopicResult], accept: str, environment: dict[str, Any]
) -> dict[str, Any]:
    """The check as JSON values. accept: the command that accepts the changes, or ""."""
    return {
        "schema": SCHEMA,
        "exit_code": exit_code(results),
        "accept": accept,
        "topics": [
            {
                "topic": result.topic,
                "outcome": result.outcome,
                "reason": result.reason,
                "values": result.values,
                "differences": [_difference(each) for each in result.differences],
            }
            for result in results
        ],
        "environment": environment,
    }


def _difference(difference: ValueDifference) -> dict[str, Any]:
    """An absent value has no key."""
    sides = {"old": difference.old, "new": difference.new}
    return {
        "case": difference.case,
        "key": difference.key,
        **{name: msgspec.to_builtins(side) for name, side in sides.items() if side is not UNSET},
        "share": difference.share,
        "more": difference.more,
    }
