"""Fig. 11 in miniature: SPPO's variants relative to Megatron, measured on CPU ranks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.paper.items import drawing
from benchmarks.paper.items.item import Point, Table
from benchmarks.paper.items.miniature.panel import HEADING, Panel, row_cells
from benchmarks.paper.items.miniature.signs import (
    Sign,
    agreement_words,
    ratio_of,
    row_of,
    sign_of,
    sign_of_value,
)
from benchmarks.paper.miniature import report, result
from benchmarks.paper.miniature.result import MeasuredFigure, MeasuredPlace
from benchmarks.paper.miniature.settings import SAME_LAYOUT, VARIANTS, variant_row
from benchmarks.paper.offload_ablation import ADAPTIVE, FULL, MSP
from benchmarks.reporting import style
from benchmarks.reporting.tables import size_words
from benchmarks.rows.row import find

QUANTITY = "speed over Megatron in SPPO's layout, in miniature"

LOOKS: dict[str, drawing.Look] = {
    "no offload": {**style.bar("sppo"), "hatch": "\\\\"},
    FULL.name: {**style.bar("sppo"), "hatch": "///"},
    ADAPTIVE.name: style.bar("sppo"),
    MSP.name: {**style.bar("sppo"), "hatch": "xx"},
    "further: auto": {**style.bar("sppo"), "hatch": "..."},
}


@dataclass(frozen=True, kw_only=True)
class Simulated:
    """A simulated point of the paper: ratios of its variants; None where one does not fit.

    adaptive: over full offload. msp: over adaptive offload. spare_msp: with memory to spare.
    """

    adaptive: float | None
    msp: float | None
    spare_msp: float | None


@dataclass(frozen=True, kw_only=True)
class Step:
    """One step of the ablation at a measured place, beside the signs of the simulated points."""

    name: str
    place: MeasuredPlace
    row: str
    over: str
    simulated: Sequence[Sign]

    @property
    def sign(self) -> Sign:
        """The measured sign."""
        return sign_of(self.place, self.row, self.over)

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """The measured sign beside each simulated one; none where no sign is claimed."""
        sign = self.sign
        return [] if sign == "not claimed" else [(sign, other) for other in self.simulated]


def megatron() -> str:
    """The row with which all variants are compared."""
    return find((SAME_LAYOUT,))[0].label


def panel(measured: MeasuredFigure, *, simulated: Sequence[Simulated]) -> Panel:
    """The panel. simulated: the points of the simulated panel."""
    steps = [step for place in measured.places for step in steps_of(place, simulated)]
    source = result.source(measured)
    return Panel(
        verdict=verdict(steps),
        points=[point for place in measured.places for point in _points(place, source)],
        tables=[_table(measured.places), _signs(steps)],
        notes=[
            *(f"{report.place_words(place)}." for place in measured.places),
            f"All variants of SPPO have PP {measured.places[0].ranks}, one chunk a stage and one "
            "N. Policy auto may also recompute.",
            "On a CPU a copy to the host takes compute time. So offload costs time here, and the "
            "device's limit alone can make it worth that time.",
            "With no limit MSP is compared with the simulated what-if of spare memory.",
            *_equal_settings(measured.places),
        ],
        draw=lambda figure: _draw(figure, measured.places),
    )


def _equal_settings(places: Sequence[MeasuredPlace]) -> Iterator[str]:
    """Where adaptive offload has nothing to adapt, in a sentence."""
    for place in places:
        full, adaptive = (row_of(place, variant_row(variant)) for variant in (FULL, ADAPTIVE))
        if full and adaptive and full.summary.settings == adaptive.summary.settings:
            yield f"{place.place}: adaptive offload has the settings of full offload."


def steps_of(place: MeasuredPlace, simulated: Sequence[Simulated]) -> Iterator[Step]:
    """The two steps of the paper's ablation at a place."""
    names = {variant: variant_row(variant) for variant in (FULL, ADAPTIVE, MSP)}
    limited = place.device_memory_bytes is not None
    msp = [point.msp if limited else point.spare_msp for point in simulated]
    for name, variant, base, ratios in (
        ("adaptive over full", ADAPTIVE, FULL, [point.adaptive for point in simulated]),
        ("MSP over adaptive", MSP, ADAPTIVE, msp),
    ):
        yield Step(
            name=name,
            place=place,
            row=names[variant],
            over=names[base],
            simulated=list(map(sign_of_value, ratios)),
        )


def verdict(steps: Sequence[Step]) -> str:
    """How many signs agree with the simulated panel."""
    pairs = [pair for step in steps for pair in step.pairs]
    unclaimed = sum(step.sign == "not claimed" for step in steps)
    return (
        f"{agreement_words(pairs, 'signs')} with the simulated panel's two points, "
        f"{unclaimed} are not claimed."
    )


def _points(place: MeasuredPlace, source: str) -> Iterator[Point]:
    for variant in VARIANTS:
        name = variant_row(variant)
        row, ratio = row_of(place, name), ratio_of(place, name, megatron())
        if row is None:
            continue
        value = None if ratio is None else ratio.ratio
        reason = "not claimed" if ratio is None else ratio.reason
        yield Point(
            series=variant.name,
            place=place.place,
            quantity=QUANTITY,
            unit="x",
            value=value,
            outcome=_outcome(row.summary.status, reason) if value is None else "",
            label="measured",
            source=source,
            settings=row.summary.settings,
        )


def _outcome(status: str, reason: str) -> str:
    if status == "infeasible":
        return "does not fit"
    return status if status != "ok" else reason or "not claimed"


def _table(places: Sequence[MeasuredPlace]) -> Table:
    cells = []
    for place in places:
        for row in place.rows:
            ratio = ratio_of(place, row.summary.row, megatron())
            cells.append(
                [
                    place.place,
                    *row_cells(row, ratio),
                    size_words(row.summary.host_peak_bytes),
                ]
            )
    titles = [
        "device memory",
        "row",
        "settings",
        "status",
        "timing",
        "step s, median [quartiles]",
        "faster than Megatron by [interval]",
        "device peak",
        "host peak",
    ]
    return Table(heading=HEADING, titles=titles, rows=cells, align="rllllrrrr")


def _signs(steps: Sequence[Step]) -> Table:
    cells = []
    for step in steps:
        ratio = ratio_of(step.place, step.row, step.over)
        words = "" if ratio is None else f", {report.ratio_words(ratio)}"
        simulated = "; ".join(step.simulated)
        cells.append([f"{step.name}, {step.place.place}", f"{step.sign}{words}", simulated])
    titles = ["step", "measured in miniature", "simulated, 13B; 65B"]
    return Table(heading="Signs in both panels", titles=titles, rows=cells)


def _draw(figure: Any, places: Sequence[MeasuredPlace]) -> None:
    axes = figure.add_subplot()
    points = [point for place in places for point in _points(place, "the panel")]
    short = [_shortened(point) for point in points]
    looks = {f"{name}, measured": look for name, look in LOOKS.items()}
    drawing.grouped_bars(axes, short, looks, form="{:.2f}", upright=True)
    axes.set_xlabel("device memory of a rank")
    axes.set_ylabel("speed over Megatron")
    axes.set_title(f"measured: {report.place_words(places[0]).rpartition(', ')[0]}")


def _shortened(point: Point) -> Point:
    """The point as it is drawn: a long reason is in the table."""
    outcome = point.outcome if point.outcome in ("does not fit", "oom") else "not claimed"
    return Point(
        series=f"{point.series}, measured",
        place=point.place,
        quantity=point.quantity,
        unit=point.unit,
        value=point.value,
        outcome=outcome,
        label=point.label,
        source=point.source,
    )
