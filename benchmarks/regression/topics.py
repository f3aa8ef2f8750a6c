"""The topics: what each file of expected values holds, and how it is made and compared."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.regression import cases, expected
from benchmarks.regression.differences import Cases, Difference, compare
from benchmarks.regression.expected import Expected

ROUNDING = 1e-6
"""Other processors round otherwise."""

BUFFERS_OF_GLOO = 0.05
"""Share of a rank's peak: two runs of a step need not have the same buffers of gloo there."""


@dataclass(frozen=True, kw_only=True)
class Topic:
    """One file of expected values. What is counted depends on libraries, what is planned does not.

    `tolerances` are relative, by a name in a key; 0 for all others. `slow`: beyond half a
    minute, or with processes of its own.
    """

    name: str
    measure: Callable[[], Cases]
    counted: bool = False
    slow: bool = False
    tolerances: Mapping[str, float] = field(default_factory=dict)


def _plans(chosen: Callable[[], Sequence[cases.PlanCase]]) -> Callable[[], Cases]:
    def measure() -> Cases:
        from benchmarks.regression.plans import plan_values

        return {case.name: plan_values(case) for case in chosen()}

    return measure


def _units() -> Cases:
    from benchmarks.regression.plans import unit_values

    return {case.name: unit_values(case) for case in cases.unit_pipelines()}


def _emulations() -> Cases:
    from benchmarks.regression.counted import emulated_values

    return {case.name: emulated_values(case) for case in cases.emulated_cases()}


def _gloo() -> Cases:
    from benchmarks.regression.counted import launched_values

    return launched_values(cases.gloo_cases())


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
        tolerances={
            "loss": ROUNDING,
            "grad_norm": ROUNDING,
            "peak_device_bytes": BUFFERS_OF_GLOO,
        },
    ),
)


def find(names: Sequence[str]) -> list[Topic]:
    """Topics by name or first words ("plans"); all where none is named. Raises ValueError."""
    for name in names:
        if not any(_is_meant(name, topic) for topic in TOPICS):
            known = ", ".join(topic.name for topic in TOPICS)
            raise ValueError(f"unknown topic {name!r}; known: {known}")
    return [t for t in TOPICS if not names or any(_is_meant(name, t) for name in names)]


def _is_meant(name: str, topic: Topic) -> bool:
    return topic.name == name or topic.name.startswith(f"{name}-")


def obstacle(topic: Topic, directory: Path) -> str | None:
    """Why this topic cannot be compared here, None where it can.

    Raises ValueError from the file.
    """
    if not topic.counted:
        return None
    made, here = expected.read(directory, topic.name).versions, expected.versions_here()
    other = [
        f"{name} {made.get(name, 'absent')} (here {here.get(name, 'absent')})"
        for name in sorted({*made, *here})
        if made.get(name) != here.get(name)
    ]
    return f"made with {', '.join(other)}" if other else None


def check(topic: Topic, directory: Path) -> list[Difference]:
    """Measure a topic again and compare it with its file. Raises ValueError."""
    known = expected.read(directory, topic.name)
    return compare(known.cases, topic.measure(), topic.tolerances)


def update(topic: Topic, directory: Path) -> list[Difference]:
    """Write a topic's file anew; what differs from the file before, if there was one."""
    actual = topic.measure()
    try:
        before = expected.read(directory, topic.name).cases
    except ValueError:
        before = actual
    versions = expected.versions_here() if topic.counted else {}
    expected.write(directory, topic.name, Expected(cases=actual, versions=versions))
    return compare(before, actual, {})
