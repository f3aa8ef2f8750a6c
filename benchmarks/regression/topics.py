"""The topics: what each file of expected values holds, and how it is made and compared."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.regression import cases, expected
from benchmarks.regression.differences import CaseValues, ValueDifference, compare
from benchmarks.regression.expected import Expected
from benchmarks.regression.plans import plan_values, unit_values

ROUNDING = 1e-6
"""Relative: another processor rounds differently."""

GLOO_BUFFERS = 0.05
"""Share of a rank's peak: two runs of a step may hold different buffers of gloo at the peak."""


@dataclass(frozen=True, kw_only=True)
class Topic:
    """One file of expected values.

    counted: the values depend on the versions of the libraries; planned values do not.
    slow: the topic takes more than half a minute, or starts processes.
    tolerances: relative, by a name in a key; 0 for every other key.
    """

    name: str
    measure: Callable[[], CaseValues]
    counted: bool = False
    slow: bool = False
    tolerances: Mapping[str, float] = field(default_factory=dict)


def _plans(plan_cases: Callable[[], cases.PlanCases]) -> Callable[[], CaseValues]:
    return lambda: {name: plan_values(*case) for name, case in plan_cases().items()}


def _units() -> CaseValues:
    return {name: unit_values(step) for name, step in cases.unit_pipelines().items()}


def _emulations() -> CaseValues:
    from benchmarks.regression.counted import emulated_values

    return emulated_values()


def _gloo() -> CaseValues:
    from benchmarks.regression.counted import launched_values

    return launched_values()


TOPICS = (
    Topic(name="plans-unit-costs", measure=_units),
    Topic(name="plans-tiny-cpu", measure=_plans(cases.tiny_plans)),
    Topic(name="plans-named", measure=_plans(cases.named_plans)),
    Topic(name="plans-paper", measure=_plans(cases.paper_plans), slow=True),
    Topic(name="plans-gpu-options", measure=_plans(cases.gpu_plans), slow=True),
    Topic(name="emulations", measure=_emulations, counted=True, slow=True),
    Topic(
        name="gloo-mini-cpu",
        measure=_gloo,
        counted=True,
        slow=True,
        tolerances={"loss": ROUNDING, "grad_norm": ROUNDING, "peak_device_bytes": GLOO_BUFFERS},
    ),
)


def find(names: Sequence[str]) -> list[Topic]:
    """Topics by name or first words ("plans"); all where none is named. Raises ValueError."""
    chosen = set()
    for name in names:
        matches = {topic.name for topic in TOPICS if f"{topic.name}-".startswith(f"{name}-")}
        if not matches:
            known = ", ".join(topic.name for topic in TOPICS)
            raise ValueError(f"unknown topic {name!r}; known: {known}")
        chosen |= matches
    return [topic for topic in TOPICS if not names or topic.name in chosen]


def obstacle(topic: Topic, directory: Path) -> str | None:
    """Why the topic cannot be compared on this machine; None where it can.

    Raises ValueError from the file.
    """
    if not topic.counted:
        return None
    made, here = expected.read(directory, topic.name).versions, expected.versions_here()
    changed = [
        f"{name} {made.get(name, 'absent')} (here {here.get(name, 'absent')})"
        for name in sorted({*made, *here})
        if made.get(name) != here.get(name)
    ]
    return f"made with {', '.join(changed)}" if changed else None


def check(topic: Topic, directory: Path) -> list[ValueDifference]:
    """Measure a topic and compare it with its file. Raises ValueError from the file."""
    known = expected.read(directory, topic.name)
    return compare(known.cases, topic.measure(), topic.tolerances)


def update(topic: Topic, directory: Path) -> list[ValueDifference]:
    """Write a topic's file; returns the differences from the file before, if there was one."""
    actual = topic.measure()
    try:
        before = expected.read(directory, topic.name).cases
    except ValueError:
        before = actual
    versions = expected.versions_here() if topic.counted else {}
    expected.write(directory, topic.name, Expected(cases=actual, versions=versions))
    return compare(before, actual, {})
