"""Table 4: SP, PP and N at the 15 points by the paper, by its printed heuristic, and by ours."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.paper import reported
from benchmarks.paper.items import drawing
from benchmarks.paper.items.item import Comparison, Item, Point, Table
from benchmarks.paper.items.profile import kernel_limit_share
from benchmarks.paper.items.sppo_steps import (
    SimulatedStep,
    own_plan,
    paper_heuristic,
    paper_plan,
    words,
)
from benchmarks.paper.reported import ReportedPoint
from benchmarks.reporting.text_table import number
from sppo.config.errors import Infeasible
from sppo.plan.layout import Degrees
from sppo.plan.plan import Plan

PAPERS, HEURISTIC, OURS = "the paper's choice", "the printed heuristic", "this project's plan"

_LOOKS = {
    PAPERS: drawing.OURS_IN_THE_PAPERS_PLAN,
    HEURISTIC: drawing.WHAT_IF,
    OURS: drawing.OURS,
}


@dataclass(frozen=True, kw_only=True)
class Choice:
    """The plan of one solver at a point; step: None where no layout fits by its memory model."""

    point: ReportedPoint
    series: str
    step: SimulatedStep | None
    reason: str = ""

    @property
    def seconds(self) -> float:
        """Of a plan's step."""
        assert self.step is not None
        return self.step.seconds

    @property
    def plan(self) -> Plan:
        """A plan that was made here."""
        assert self.step is not None
        assert self.step.plan is not None
        return self.step.plan


def make() -> Item:
    """The item. Raises OSError."""
    choices = [choice for point in reported.points() for choice in _choices(point)]
    papers = {_place(choice.point): choice for choice in choices if choice.series == PAPERS}
    comparisons = [
        Comparison(
            what=f"{_place(choice.point)}: N of the printed heuristic",
            ours=float(choice.plan.subsequences),
            ours_label="computed",
            paper=choice.point.subsequences,
            form="{:.0f}",
            cause=_cause(choice, papers[_place(choice.point)]),
        )
        for choice in choices
        if choice.series == HEURISTIC and choice.step is not None
    ]
    same = sum(_degrees(choice) == _reported_degrees(choice.point) for choice in _planned(choices))
    equal = sum(row.ours == row.paper for row in comparisons)
    smaller = sum((row.difference or 0) < 0 for row in comparisons)
    faster = [
        papers[_place(choice.point)].seconds / choice.seconds
        for choice in choices
        if choice.series == OURS
    ]
    return Item(
        key="table4",
        title="Table 4: SP, PP and N by three solvers",
        compares="SP, PP, N and simulated step at the 15 points, one sequence a step",
        points=[_point(choice) for choice in choices] + _reported(),
        comparisons=comparisons,
        agreement=(
            f"SP and PP as in the paper at {same} of {len(comparisons)} points, N at {equal}"
        ),
        verdict=(
            f"With this profile the printed heuristic chooses a smaller N than the paper at "
            f"{smaller} of {len(comparisons)} points, and other degrees at "
            f"{len(comparisons) - same}. This project's plan is {min(faster):.2f}x to "
            f"{max(faster):.2f}x as fast as the paper's choice."
        ),
        notes=[
            "All three steps are simulated with the `a100-80g` profile, one sequence a step.",
            "The paper's choice and the heuristic's have the policy `paper`: K and V stay, the "
            "rest travels, nothing is recomputed.",
            "Steps of the choices differ in all that their layouts differ in: degrees, N and MSP. "
            "SP 16 crosses nodes of eight GPUs.",
            "Short: device memory that the plan lacks by the whole memory model. Its step is that "
            "of a larger device.",
        ],
        tables=[_table(choices)],
        draw=lambda figure: _draw(figure, choices),
        inches=(11.0, 4.6),
        drawn_source="simulated · profile a100-80g (assumed) · one sequence a step",
    )


def _choices(point: ReportedPoint) -> Iterator[Choice]:
    workload = point.workload()
    yield Choice(
        point=point,
        series=PAPERS,
        step=paper_plan(workload, _reported_degrees(point), point.subsequences),
    )
    try:
        yield Choice(point=point, series=HEURISTIC, step=paper_heuristic(workload))
    except Infeasible as error:
        yield Choice(point=point, series=HEURISTIC, step=None, reason=str(error))
    name = f"{point.model}, {point.seq}, {point.gpus} GPUs"
    yield Choice(point=point, series=OURS, step=own_plan(name))


def _reported_degrees(point: ReportedPoint) -> Degrees:
    return Degrees(point.sequence_parallel, point.pipeline_parallel, 1)


def _planned(choices: Sequence[Choice]) -> list[Choice]:
    return [choice for choice in choices if choice.series == HEURISTIC and choice.step is not None]


def _degrees(choice: Choice) -> Degrees:
    plan = choice.plan
    return Degrees(plan.sequence_parallel, plan.pipeline_parallel, plan.data_parallel)


def _cause(heuristic: Choice, papers: Choice) -> str:
    """The simulated steps of both choices, which may differ in more than N, with their layouts."""
    if heuristic.plan.subsequences == papers.point.subsequences:
        return ""
    slower = papers.seconds / heuristic.seconds
    return (
        f"the paper's choice ({words(papers.plan)}) takes {slower:.2f}x the time of the "
        f"heuristic's ({words(heuristic.plan)})"
    )


def _place(point: ReportedPoint) -> str:
    return f"{point.model}, {point.seq}"


def _point(choice: Choice) -> Point:
    step, point = choice.step, choice.point
    return Point(
        series=choice.series,
        place=_place(point),
        quantity="step",
        unit="s",
        value=None if step is None else step.seconds,
        outcome=choice.reason if step is None else (step.short and f"short by {step.short}"),
        label="simulated",
        source="results/paper/reported.json" if step is None else step.source,
        settings="" if step is None else step.settings,
        kernel_limit_share=(
            None if step is None else kernel_limit_share(point.workload(), step.seconds)
        ),
    )


def _reported() -> list[Point]:
    return [
        Point(
            series=PAPERS,
            place=_place(point),
            quantity="N",
            unit="subsequences",
            value=point.subsequences,
            label="paper",
            source="arXiv 2503.10377, table 4",
            settings=f"SP {point.sequence_parallel} x PP {point.pipeline_parallel}",
        )
        for point in reported.points()
    ]


def _table(choices: Sequence[Choice]) -> Table:
    rows = []
    for choice in choices:
        step, workload = choice.step, choice.point.workload()
        seconds = None if step is None else step.seconds
        share = None if seconds is None else 100 * kernel_limit_share(workload, seconds)
        rows.append(
            [
                f"{_place(choice.point)}, {choice.point.gpus} GPUs",
                choice.series,
                choice.reason if step is None else step.settings,
                number(seconds, "{:.1f} s"),
                number(share, "{:.0f} %"),
                "" if step is None else step.short,
            ]
        )
    titles = ["point", "solver", "plan", "step, simulated", "of the kernel limit", "short"]
    return Table(heading="Plans and simulated steps", titles=titles, rows=rows, align="lllrrl")


def _draw(figure: Any, choices: Sequence[Choice]) -> None:
    models = list(dict.fromkeys(choice.point.model for choice in choices))
    for axes, model in zip(figure.subplots(1, len(models)), models, strict=True):
        shown = [choice for choice in choices if choice.point.model == model]
        points = [_drawn(choice) for choice in shown if choice.step is not None]
        drawing.grouped_bars(axes, points, _LOOKS, form="{:.0f}", upright=True)
        axes.set_title(f"{model}, {shown[0].point.gpus} GPUs")
        axes.set_ylabel("step, s")


def _drawn(choice: Choice) -> Point:
    """The point at its length alone: the panel names the model."""
    point = _point(choice)
    return Point(
        series=point.series,
        place=choice.point.seq,
        quantity=point.quantity,
        unit=point.unit,
        value=point.value,
        label=point.label,
        source=point.source,
    )
