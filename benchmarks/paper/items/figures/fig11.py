"""Fig. 11: full offload, adaptive offload and MSP at 13B 512K and 65B 640K, with what-ifs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

from benchmarks.paper import reported
from benchmarks.paper.items import drawing, published
from benchmarks.paper.items.ablation_bars import (
    ADAPTIVE_BAR,
    ADAPTIVE_STEP,
    BARS,
    FULL_BAR,
    MSP_BAR,
    MSP_STEP,
    RATIOS,
    SPARE_BAR,
    Bar,
    Steps,
    changed_rates,
    steps_of,
)
from benchmarks.paper.items.figures import fig10
from benchmarks.paper.items.item import Comparison, Item, Point, Table
from benchmarks.paper.items.miniature import fig11 as miniature
from benchmarks.paper.items.miniature.panel import with_miniature
from benchmarks.paper.items.profile import FULL_RATE_TOKENS, kernel_limit_share, source_words
from benchmarks.paper.items.throughput import SAME, rows_of
from benchmarks.paper.offload_ablation import VariantResult
from benchmarks.paper.offload_ablation_report import TIE
from benchmarks.paper.reported import ReportedPoint
from benchmarks.reporting.text_table import number

QUANTITY = "speed over full offload"

WHAT_IF = "what if"


def make() -> Item:
    """The item. Raises OSError."""
    places = reported.ablation_points()
    steps = {_name(place): steps_of(place) for place in places}
    comparisons = [row for place in places for row in _comparisons(place, steps[_name(place)])]
    printed = [row for row in comparisons if WHAT_IF not in row.what]
    what_ifs = [row for row in comparisons if WHAT_IF in row.what]
    item = Item(
        key="fig11",
        title="Fig. 11: each step of the ablation, and what-ifs",
        compares="adaptive over full offload, MSP over adaptive; what-ifs",
        points=[*(point for place in places for point in _points(place, steps[_name(place)]))],
        comparisons=comparisons,
        agreement=(
            f"{sum(map(has_sign, printed))} of {len(printed)} signs, "
            f"{sum(map(has_sign, what_ifs))} of {len(what_ifs)} in the what-ifs"
        ),
        verdict=_verdict(comparisons),
        notes=[
            "One sequence a step, table 4's degrees and N, one chunk a stage. A sign counts from "
            "0.5 % of a step on.",
            "The paper gives speeds over Megatron. The steps of its ablation are their ratios.",
            "Spare memory: MSP on a device that it does not fill, over adaptive offload.",
            "Node link 50 GB/s: MSP's weights travel between nodes at four times the rate. No slow "
            "short kernels: a slice of 256 tokens a GPU runs as fast as one of "
            f"{FULL_RATE_TOKENS:,}.",
        ],
        tables=[_table(places, steps), *_megatron(places, steps)],
        draw=lambda figure: _draw(figure, comparisons),
        inches=(12.0, 4.6),
        drawn_source=f"simulated · {source_words()} · hollow: the paper, read off",
    )
    simulated = list(map(_simulated, steps.values()))
    return with_miniature(item, "11", partial(miniature.panel, simulated=simulated))


def _simulated(steps: Steps) -> miniature.Simulated:
    """The ratios of a point that the measured ones are compared with."""
    return miniature.Simulated(
        adaptive=_ratio(steps, ADAPTIVE_BAR, FULL_BAR),
        msp=_ratio(steps, MSP_BAR, ADAPTIVE_BAR),
        spare_msp=_ratio(steps, SPARE_BAR, ADAPTIVE_BAR),
    )


def has_sign(row: Comparison) -> bool:
    """Whether the step is a gain, as in the paper."""
    return row.ours is not None and row.ours > 1 + TIE


def unexplained(comparisons: Sequence[Comparison]) -> list[str]:
    """Steps of the ablation whose sign neither the printed setting nor a what-if gives."""
    signs: dict[str, bool] = {}
    step = ""
    for row in comparisons:
        step = step if WHAT_IF in row.what else row.what
        signs[step] = signs.get(step, False) or has_sign(row)
    return [step for step, has in signs.items() if not has]


def _verdict(comparisons: Sequence[Comparison]) -> str:
    printed = [row for row in comparisons if WHAT_IF not in row.what]
    same = sum(map(has_sign, printed))
    words = f"As printed {same} of {len(printed)} steps have the paper's sign."
    open_steps = unexplained(comparisons)
    if open_steps:
        return f"{words} No what-if gives the sign of {', '.join(open_steps)}."
    return f"{words} A what-if gives the sign of each other step."


def _name(place: ReportedPoint) -> str:
    return f"{place.model}, {place.seq}"


def _ratio(steps: Steps, faster: Bar, slower: Bar) -> float | None:
    above, below = steps[slower.name].step_seconds, steps[faster.name].step_seconds
    return None if above is None or below is None else above / below


def _comparisons(place: ReportedPoint, steps: Steps) -> Iterator[Comparison]:
    speeds = place.over_megatron
    papers = {
        ADAPTIVE_STEP: speeds["adaptive_offload"] / speeds["full_offload"],
        MSP_STEP: speeds["msp"] / speeds["adaptive_offload"],
    }
    paper = papers[ADAPTIVE_STEP]
    for name, faster, slower in RATIOS:
        paper = papers.get(name, paper)
        yield Comparison(
            what=f"{_name(place)}: {name}",
            ours=_ratio(steps, faster, slower),
            ours_label="simulated",
            paper=paper,
            form="{:.2f}x",
            cause=_cause(steps, faster, slower),
        )


def _cause(steps: Steps, faster: Bar, slower: Bar) -> str:
    """The exposed copies of the slower bar, or why the faster one does not fit."""
    if steps[faster.name].status != "ok":
        return steps[faster.name].reason.partition(": ")[2]
    exposed = steps[slower.name].exposed_copy_seconds
    waits = f"exposed copies of {slower.name}: {number(exposed, '{:.2f} s')}"
    if slower.variant.hosted_kv:
        hosted, resident = (steps[bar.name].compute_seconds or 0.0 for bar in (slower, FULL_BAR))
        return f"copies of K and V lengthen the computes by {hosted - resident:.1f} s"
    if faster.variant.msp:
        shares = (steps[bar.name].bubble_share for bar in (slower, faster))
        return "idle {} without, {} with MSP".format(*(number(share, "{:.1%}") for share in shares))
    return waits


def _points(place: ReportedPoint, steps: Steps) -> Iterator[Point]:
    workload = place.workload()
    for bar in BARS:
        step = steps[bar.name]
        seconds = step.step_seconds
        yield Point(
            series=bar.name,
            place=_name(place),
            quantity="step",
            unit="s",
            value=seconds,
            outcome="" if seconds is not None else "does not fit",
            label="simulated",
            source=source_words(*changed_rates(bar)),
            settings=step.layout,
            kernel_limit_share=(None if seconds is None else kernel_limit_share(workload, seconds)),
        )
    for name, value in place.over_megatron.items():
        yield Point(
            series=name,
            place=_name(place),
            quantity="speed over Megatron",
            unit="x",
            value=value,
            label="paper",
            source="arXiv 2503.10377, fig. 11, read off",
        )


def _table(places: Sequence[ReportedPoint], steps: dict[str, Steps]) -> Table:
    rows = [
        [bar.name, *(_seconds(steps[_name(place)][bar.name]) for place in places)] for bar in BARS
    ]
    titles = ["bar", *(_name(place) for place in places)]
    return Table(heading="Simulated steps", titles=titles, rows=rows, align="l" + "r" * len(places))


def _seconds(step: VariantResult) -> str:
    return number(step.step_seconds, "{:.1f} s") if step.status == "ok" else "does not fit"


def _megatron(places: Sequence[ReportedPoint], steps: dict[str, Steps]) -> Iterator[Table]:
    """Speeds over Megatron for one sequence, as it runs and without its idle time."""
    emulated = published.read("10", fig10.DRAWN_SEQUENCES)
    if emulated is None:
        return
    peers = {
        row.place: row
        for row in rows_of(fig10.DRAWN_SEQUENCES, emulated)
        if row.verdict.rule_name == SAME and row.seconds is not None
    }
    rows = []
    for place in places:
        peer = peers.get(_name(place))
        if peer is None or peer.seconds is None:
            continue
        busy = peer.seconds * (1 - peer.idle_share) / peer.sequences_per_step
        for bar, key in zip(BARS, ("full_offload", "adaptive_offload", "msp"), strict=False):
            step = steps[_name(place)][bar.name].step_seconds
            idle = busy * place.pipeline_parallel
            rows.append(
                [
                    _name(place),
                    bar.name,
                    number(None if step is None else idle / step, "{:.2f}x"),
                    number(None if step is None else busy / step, "{:.2f}x"),
                    f"{place.over_megatron[key]:.2f}x",
                ]
            )
    titles = ["point", "SPPO", "one sequence", "Megatron without idle time", "paper"]
    yield Table(heading="Speed over Megatron", titles=titles, rows=rows, align="llrrr")


def _draw(figure: Any, comparisons: Sequence[Comparison]) -> None:
    """A panel a point: each ratio of ours beside the paper's."""
    names = list(dict.fromkeys(row.what.partition(": ")[0] for row in comparisons))
    panels = figure.subplots(1, len(names), sharey=True, squeeze=False)[0]
    for axes, name in zip(panels, names, strict=True):
        shown = [row for row in comparisons if row.what.startswith(f"{name}: ")]
        points = [point for row in shown for point in _drawn(row)]
        looks = {
            "this project": drawing.OURS,
            WHAT_IF: drawing.WHAT_IF,
            "the paper": drawing.PAPERS,
        }
        drawing.grouped_bars(axes, points, looks, form="{:.2f}")
        axes.tick_params(axis="x", labelsize=6.5)
        axes.set_title(name)
        axes.set_ylabel("speed of the faster over the slower by the paper")


def _drawn(row: Comparison) -> Iterator[Point]:
    _, _, what = row.what.partition(": ")
    is_what_if = what.startswith(WHAT_IF)
    place = (
        what.removeprefix(f"{WHAT_IF}: ")
        .replace(", ", ",\n")
        .replace(" short kernels", "\nshort kernels")
        .replace(" in full", "\nin full")
    )
    yield Point(
        series=WHAT_IF if is_what_if else "this project",
        place=place,
        quantity=QUANTITY,
        unit="x",
        value=row.ours,
        outcome="" if row.ours is not None else "does not fit",
        label="simulated",
        source=source_words(),
    )
    yield Point(
        series="the paper",
        place=place,
        quantity=QUANTITY,
        unit="x",
        value=row.paper,
        label="paper",
        source="arXiv 2503.10377, fig. 11, read off",
    )
