"""Table 3: which subsequences and ranks multiplexed sequence partitioning uses, and what it gains.

Ids and ranks follow from PP and N alone. Makespans are in units of one forward of a subsequence
through a stage; a backward takes two units, and communication is free.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from benchmarks.paper import reported
from benchmarks.paper.items import drawing
from benchmarks.paper.items.item import Item, Point, Table
from benchmarks.reporting.simulated_step import of_unit_costs
from sppo.plan.msp import paper_table_3

PAPERS_PIPELINE = (4, 8)
"""PP and N of the paper's table."""

FOLLOWS_UNITS = 25 / 3
"""Forward makespan that follows from table 3 with equal unit costs and free communication.

The paper prints no makespan. Stage 0's left part ends at 3/4, those of stages 1 and 2 at 17/12 and
23/12; the right parts end at 83/12, 91/12 and 25/3.
"""

PIPELINES = ((2, 8), PAPERS_PIPELINE, (4, 16), (8, 16), (8, 32))
"""PP and N whose makespans are shown."""

KINDS = ("left_ids", "steady_ids", "right_ids", "left_ranks", "right_ranks")

WITHOUT, WITH, IDEAL = "without MSP", "with MSP", "ideal: every rank always busy"

BY_HAND = "with MSP, by hand from table 3"

_SOURCE = "unit costs"


def rows_of(stages: int, subsequences: int) -> dict[str, list[list[int]]]:
    """Table 3 for any PP and N: by KINDS, one list for each stage."""
    rows: dict[str, list[list[int]]] = {kind: [] for kind in KINDS}
    for stage in range(stages):
        left, right = paper_table_3(stages, subsequences, stage)
        rows["left_ids"].append(list(left))
        rows["right_ids"].append(list(right))
        steady = range(left.stop, right.start)
        rows["steady_ids"].append(list(steady))
        rows["left_ranks"].append(list(range(stage, stages)) if left else [])
        rows["right_ranks"].append(list(range(stage + 1)) if right else [])
    return rows


def wrong_cells(ours: dict[str, list[list[int]]]) -> list[str]:
    """Cells that are not those of the paper's table, as "left_ids of stage 2"."""
    papers = reported.msp_table()
    return [
        f"{kind} of stage {stage}"
        for kind in KINDS
        for stage, cell in enumerate(papers[kind])
        if ours[kind][stage] != cell
    ]


def make(pipeline: tuple[int, int] | None = None) -> Item:
    """The item; `pipeline`: PP and N of a further table of ids. Raises ValueError."""
    wrong = wrong_cells(rows_of(*PAPERS_PIPELINE))
    cells = len(KINDS) * PAPERS_PIPELINE[0]
    asked = (pipeline,) if pipeline is not None and pipeline not in PIPELINES else ()
    points = [point for each in (*PIPELINES, *asked) for point in _makespans(*each)]
    forward = next(
        point.value
        for point in points
        if point.series == WITH and point.place == _name(*PAPERS_PIPELINE)
    )
    return Item(
        key="table3",
        title="Table 3: who computes which subsequence under MSP",
        compares="ids and ranks at PP 4, N 8",
        points=[*points, _computed_point()],
        agreement=f"{cells - len(wrong)} of {cells} cells",
        verdict=(
            f"Differs: {', '.join(wrong)}."
            if wrong
            else f"All {cells} cells are those of the paper's table."
        ),
        notes=[
            f"The paper prints no makespan. By hand {FOLLOWS_UNITS:.2f} units follow from its "
            f"table with equal unit costs and free communication; the simulator gives "
            f"{forward:.2f}.",
            "Source of the ids and ranks: `sppo/plan/msp.py`. The same function plans real steps.",
            "Another pipeline: `sppo-bench paper --tables 3 --pp 8 --n 32`.",
        ],
        tables=[_ids(*each) for each in (PAPERS_PIPELINE, *((pipeline,) if pipeline else ()))],
        draw=lambda figure: _draw(figure, points),
        drawn_source="simulated · unit costs: a forward of a subsequence through a stage is 1",
    )


def _name(stages: int, subsequences: int) -> str:
    return f"PP {stages}, N {subsequences}"


def _makespans(stages: int, subsequences: int) -> list[Point]:
    def units(msp: bool) -> float:
        step = of_unit_costs(pipeline_parallel=stages, subsequences=subsequences, msp=msp)
        return float(step.forward_makespan)

    values = {WITHOUT: units(False), WITH: units(True), IDEAL: float(subsequences)}
    return [
        Point(
            series=series,
            place=_name(stages, subsequences),
            quantity="forward makespan",
            unit="units of one forward",
            value=value,
            label="computed" if series == IDEAL else "simulated",
            source=_SOURCE,
            settings=f"{_name(stages, subsequences)}, one chunk a stage",
        )
        for series, value in values.items()
    ]


def _computed_point() -> Point:
    return Point(
        series=BY_HAND,
        place=_name(*PAPERS_PIPELINE),
        quantity="forward makespan",
        unit="units of one forward",
        value=FOLLOWS_UNITS,
        label="computed",
        source="follows from table 3, with equal unit costs and free communication",
    )


def _ids(stages: int, subsequences: int) -> Table:
    rows = rows_of(stages, subsequences)
    return Table(
        heading=f"{_name(stages, subsequences)}: ids and ranks",
        titles=["", *(f"stage {stage}" for stage in range(stages))],
        rows=[[kind.replace("_", " "), *map(_cell, rows[kind])] for kind in KINDS],
    )


def _cell(numbers: Sequence[int]) -> str:
    return " ".join(map(str, numbers)) or "-"


def _draw(figure: Any, points: Sequence[Point]) -> None:
    axes = figure.add_subplot()
    looks = {
        WITHOUT: drawing.WHAT_IF,
        WITH: drawing.OURS,
        IDEAL: drawing.PAPERS,
    }
    drawing.grouped_bars(axes, points, looks, form="{:.4g}")
    axes.set_ylabel("forward makespan, units of one forward")
