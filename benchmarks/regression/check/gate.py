"""The check: measure topics, compare them with their files, and decide."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

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
from benchmarks.regression.check.workers import FAULTS, Collect, Workers, failures, words_of
from benchmarks.regression.exit_codes import NOT_WORSE, UNDECIDED, WORSE

Outcome = Literal["as expected", "changed", "failed", "skipped", "written", "not written"]

FAILING = {"changed", "failed", "not written"}
"""Outcomes that fail the check."""


@dataclass(frozen=True, kw_only=True)
class TopicResult:
    """A topic's outcome. values: how many were compared.

    reason: why it was skipped, failed or not written; of a changed topic a further possible cause.
    """

    topic: str
    outcome: Outcome
    reason: str = ""
    values: int = 0
    differences: Sequence[ValueDifference] = field(default_factory=tuple)


def check(
    topics: Sequence[Topic], directory: Path, *, update: bool
) -> Generator[TopicResult, None, None]:
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
) -> Generator[TopicResult, None, None]:
    """Lanes in turn; topics of one lane have all begun before the first is waited for."""
    with closing(Workers()) as workers:
        for lane in get_args(Lane):
            begun = []
            for topic in (topic for topic in topics if topic.lane == lane):
                obstacle = "" if update or topic.portable else other_versions(topic, known)
                if obstacle:
                    yield TopicResult(topic=topic.name, outcome="skipped", reason=obstacle)
                else:
                    begun.append((topic, _start(topic, workers)))
            for topic, collect in begun:
                try:
                    actual = collect()
                except FAULTS as error:
                    yield TopicResult(topic=topic.name, outcome="failed", reason=words_of(error))
                    continue
                if update:
                    yield _written(topic, actual, directory)
                else:
                    yield _compared(topic, known, actual)


def _start(topic: Topic, workers: Workers) -> Collect:
    """Begin the topic. An error is raised where its values are waited for, as that of its tasks."""
    try:
        return topic.start(workers)
    except FAULTS as error:
        failure = error

    def fail() -> CaseValues:
        raise failure

    return fail


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
    """Where a portable topic was made with other versions, these may be the cause."""
    differences = tuple(compare(known[topic.name].cases, actual, topic.tolerances))
    versions = other_versions(topic, known) if differences else ""
    return TopicResult(
        topic=topic.name,
        outcome="changed" if differences else "as expected",
        reason=f"the file was {versions}: a possible cause" if versions else "",
        values=_values(actual),
        differences=differences,
    )


def _written(topic: Topic, actual: CaseValues, directory: Path) -> TopicResult:
    """Write a topic's file, unless a case failed or nothing but noise within tolerances differs.

    A plan may be infeasible. A rank that does not fit this machine says nothing of the code.
    """
    failed = failures(actual, ("ok", "infeasible") if topic.lane == "planning" else ("ok",))
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


def exit_code(results: Sequence[TopicResult], *, allow_skips: bool = False) -> int:
    """0 as expected or written, 1 where something changed or failed, 3 where a topic was skipped.

    With `allow_skips` a skipped topic is no failure. But a check that compares nothing never
    passes.
    """
    outcomes = {result.outcome for result in results}
    if outcomes & FAILING:
        return WORSE
    if outcomes <= {"skipped"} or ("skipped" in outcomes and not allow_skips):
        return UNDECIDED
    return NOT_WORSE


def changes(results: Sequence[TopicResult]) -> list[Change]:
    """The differences of all topics."""
    return [
        Change(topic=result.topic, difference=difference)
        for result in results
        for difference in result.differences
    ]
