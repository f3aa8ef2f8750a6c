"""The topics: what each file of expected values holds, and how it is made and compared."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Literal

from benchmarks.regression.check import calls, cases
from benchmarks.regression.check.differences import CaseValues
from benchmarks.regression.check.plans import plan_values, unit_values
from benchmarks.regression.check.workers import Collect, Workers
from sppo.planner.options import SolverOptions

ROUNDING = 1e-6
"""Relative: another processor rounds differently."""

GLOO_BUFFERS = 0.05
"""Share of a rank's peak: two runs of a step may hold different buffers of gloo at the peak."""

CALLS = {r"(roles\.rank \d+\.)?calls\..+": calls.MARGIN}
"""Calls by package stand directly below a case or a role. Calls of messages have no tolerance."""

LAUNCHED = {
    r"(loss|grad_norm)\.\d+": ROUNDING,
    r"rank \d+\.peak_device_bytes": GLOO_BUFFERS,
}

RANKS = ("torch", "megatron-core", "deepspeed")
"""Libraries whose versions decide the counts of a step."""

Lane = Literal["planning", "ranks"]
"""What a topic keeps busy. Topics of one lane run beside each other, lanes one after another.

Launched ranks wait for each other and for their imports: emulated ranks fill these gaps. The main
thread launches, so the topic of launches stands before the emulations.
"""


@dataclass(frozen=True, kw_only=True)
class Topic:
    """One file of expected values.

    start: begins to measure; what it returns waits for the values. libraries: their versions and
    Python's belong to the values; the heuristic planner uses none. portable: under other versions
    the values are compared all the same, because plans do not depend on them. nightly: measured
    with `--full` only. tolerances: relative, by a pattern of the key; 0 for every other key.
    """

    name: str
    start: Callable[[Workers], Collect]
    lane: Lane
    libraries: tuple[str, ...] = ()
    portable: bool = False
    nightly: bool = False
    tolerances: Mapping[str, float] = field(default_factory=dict)


def _plans(plan_cases: Callable[[], cases.PlanCases]) -> Callable[[Workers], Collect]:
    def start(workers: Workers) -> Collect:
        # Without the name, so that a workload in two topics is planned once.
        tasks = {
            name: (replace(workload, name="unnamed"), SolverOptions(**options))
            for name, (workload, options) in plan_cases().items()
        }
        return workers.plan(plan_values, tasks)

    return start


def _units(workers: Workers) -> Collect:
    return lambda: {name: unit_values(step) for name, step in cases.unit_pipelines().items()}


def _planning_calls(workers: Workers) -> Collect:
    return workers.wait_for(calls.planning_calls, {name: name for name in calls.PLANNED})


def _emulations(workers: Workers) -> Collect:
    from benchmarks.regression.check.counted import emulated_cases, emulated_values, step_tasks

    return workers.wait_for(emulated_values, step_tasks(emulated_cases()))


def _larger_emulations(workers: Workers) -> Collect:
    from benchmarks.regression.check.counted import emulated_values, larger_cases, step_tasks

    return workers.wait_for(partial(emulated_values, larger=True), step_tasks(larger_cases()))


def _gloo(workers: Workers) -> Collect:
    def collect() -> CaseValues:
        from benchmarks.regression.check.counted import launched_values

        return launched_values()

    return collect


def _plan_topic(name: str, start: Callable[[Workers], Collect]) -> Topic:
    return Topic(name=name, start=start, lane="planning", portable=True)


TOPICS = (
    _plan_topic("plans-unit-costs", _units),
    _plan_topic("plans-tiny-cpu", _plans(cases.tiny_plans)),
    _plan_topic("plans-named", _plans(cases.named_plans)),
    _plan_topic("plans-paper", _plans(cases.paper_plans)),
    _plan_topic("plans-gpu-options", _plans(cases.gpu_plans)),
    Topic(
        name="calls-planning",
        start=_planning_calls,
        lane="planning",
        tolerances=CALLS,
    ),
    Topic(
        name="gloo-mini-cpu",
        start=_gloo,
        lane="ranks",
        libraries=RANKS,
        tolerances=LAUNCHED,
    ),
    Topic(
        name="emulations",
        start=_emulations,
        lane="ranks",
        libraries=RANKS,
        tolerances=CALLS,
    ),
    Topic(
        name="emulations-full",
        start=_larger_emulations,
        lane="ranks",
        libraries=RANKS,
        nightly=True,
    ),
)


def find(names: Sequence[str], *, full: bool = False) -> list[Topic]:
    """Topics by name or first words ("plans"); all where none is named.

    Without `full` a nightly topic is chosen by its whole name only. Raises ValueError for an
    unknown name, and for `full` where the names leave all nightly topics out.
    """
    chosen = set()
    for name in names:
        matches = {topic.name for topic in TOPICS if f"{topic.name}-".startswith(f"{name}-")}
        if not matches:
            known = ", ".join(topic.name for topic in TOPICS)
            raise ValueError(f"unknown topic {name!r}; known: {known}")
        nightly = {topic.name for topic in TOPICS if topic.nightly} if full else set()
        chosen |= {name} | (matches & nightly) if name in matches else matches
    asked = [
        topic
        for topic in TOPICS
        if (topic.name in chosen or not names)
        and (full or not topic.nightly or topic.name in names)
    ]
    if full and not any(topic.nightly for topic in asked):
        raise ValueError("--full adds nightly topics, and --topics names none: name emulations")
    return asked
