"""Fig. 1: hours for 1B tokens of gpt-7b at 1M on 32 GPUs, 2M on 64 and 4M on 128."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

from benchmarks.paper import reported
from benchmarks.paper.items import drawing, published
from benchmarks.paper.items.item import Comparison, Item, Point, Table, agreeing, largest_difference
from benchmarks.paper.items.profile import (
    FULL_RATE_TOKENS,
    full_rates,
    hours_per_billion_tokens,
    kernel_limit,
    kernel_limit_share,
    mfu,
    testbed,
)
from benchmarks.paper.items.sppo_steps import SimulatedStep, own_plan, paper_plan
from benchmarks.paper.items.throughput import BY_HEADS, TUNED
from benchmarks.paper.reported import ReportedPoint
from benchmarks.paper.verdicts import AT_BEST, PaperPoints
from benchmarks.reporting import style
from benchmarks.reporting.text_table import number
from sppo.config.hardware import Hardware
from sppo.config.sizes import length_name, parse_tokens
from sppo.cost_model.time_shares import time_shares
from sppo.plan.layout import Degrees

PAPER_SPPO, PAPER_PEERS = "SPPO, the paper", "Megatron and DeepSpeed, the paper"
PAPERS_PLAN = "SPPO, the paper's plan"
FULL_RATES = "what if: the paper's plan, no slow short kernels"
OURS = "SPPO, this project's plan"

QUANTITY, UNIT = "hours for 1B tokens", "h"

SEQUENCES = 1

OUTCOMES = {"unavailable": "cannot run"}
"""Words of a status in the figure."""


def make() -> Item:
    """The item. Raises OSError."""
    places = reported.large_points()
    emulated = published.read("1", SEQUENCES)
    points = [point for place in places for point in _sppo(place)] + list(_papers())
    peers = [] if emulated is None else list(_peers(emulated))
    plan = [_comparison(place, points, PAPERS_PLAN) for place in places]
    what_if = [_comparison(place, points, FULL_RATES) for place in places]
    ours = [_comparison(place, points, OURS) for place in places]
    farthest = {
        name: largest_difference(rows) or 0.0
        for name, rows in (("plan", plan), ("what if", what_if), ("ours", ours))
    }
    return Item(
        key="fig1",
        title="Fig. 1: hours for 1B tokens of gpt-7b",
        compares="SPPO at 1M/32, 2M/64, 4M/128: the paper's plan and ours; peers",
        points=[*points, *peers],
        comparisons=[*plan, *what_if, *ours],
        agreement=(
            f"the paper's plan at most {farthest['plan']:+.1%}, "
            f"without slow short kernels {farthest['what if']:+.1%}, ours {farthest['ours']:+.1%}"
        ),
        verdict=" ".join([_verdict(plan, what_if), *_ahead(points, peers)]),
        notes=[*_notes(), *([] if peers else [published.missing("1", SEQUENCES)])],
        tables=[*_peers_tables(emulated, peers), _table(places, points)],
        draw=lambda figure: _draw(figure, points, peers),
        inches=(11.0, 4.8),
        drawn_source=(
            "simulated, peers of emulated counts · profile a100-80g (assumed) · hollow: the paper, "
            "read off · pale: a peer as the paper ran it · full: at its best"
        ),
    )


def _verdict(plan: Sequence[Comparison], what_if: Sequence[Comparison]) -> str:
    near, near_what_if, count = agreeing(plan), agreeing(what_if), len(plan)
    words = f"The paper's plan agrees within 10 % at {near} of {count} points"
    if near == count:
        return f"{words}."
    words = f"{words}, and without slow short kernels at {near_what_if}."
    if near_what_if == count:
        return f"{words} So the profile's rates of short kernels are the cause."
    return f"{words} The profile's rates of short kernels are not the whole cause."


def _notes() -> list[str]:
    first = reported.large_points()[0]
    tokens = parse_tokens(first.seq) // first.subsequences // first.sequence_parallel
    slow, full = (
        testbed().rate(count, "attention_forward") / 1e12 for count in (tokens, FULL_RATE_TOKENS)
    )
    return [
        "The paper's plan: table 4's SP 8, PP 4, 8 and 16, and N 160 of 1M tokens on 32 GPUs. The "
        "paper gives no N for 2M and 4M. Policy `paper`, one chunk a stage, MSP where it fits.",
        f"What if: kernels of every length run as fast as those of {FULL_RATE_TOKENS:,} tokens a "
        f"GPU. At 1M and N 160 a GPU computes {tokens} tokens of a subsequence. There attention "
        f"runs at {slow:.0f} TFLOP/s in the profile, in the what-if at {full:.0f}.",
        _bound_words(),
        "One sequence a step. 1M tokens are 1,048,576, 1B tokens are 1e9.",
    ]


def _bound_words() -> str:
    """What no schedule of the paper's plan can be below under the profile's rates."""
    words = []
    for place in reported.large_points():
        step = paper_point_plan(place)
        assert step.plan is not None
        assert step.seconds is not None
        shares = time_shares(step.plan, testbed())
        alone = step.seconds * (shares.kernels + shares.short_kernels)
        words.append(f"{hours_per_billion_tokens(place.workload(), alone):.1f} h")
    return (
        f"A bound: the kernels of the paper's plan alone, at the rates of their lengths, take "
        f"{', '.join(words[:-1])} and {words[-1]}. No schedule of this plan is faster with these "
        "rates, whatever hides."
    )


def paper_point_plan(place: ReportedPoint, profile: Hardware | None = None) -> SimulatedStep:
    """The paper's plan at a point of fig. 1, with the N of the first point, which is in table 4."""
    degrees = Degrees(place.sequence_parallel, place.pipeline_parallel, 1)
    subsequences = reported.large_points()[0].subsequences
    return paper_plan(place.workload(), degrees, subsequences, profile)


def _sppo(place: ReportedPoint) -> Iterator[Point]:
    """The paper's plan, the what-if, and this project's plan."""
    yield _step_point(PAPERS_PLAN, place, paper_point_plan(place))
    yield _step_point(FULL_RATES, place, paper_point_plan(place, full_rates(testbed())))
    workload = place.workload()
    yield _step_point(OURS, place, own_plan(workload.name))


def _step_point(series: str, place: ReportedPoint, step: SimulatedStep) -> Point:
    workload = place.workload()
    hours = hours_per_billion_tokens(workload, step.seconds)
    return Point(
        series=series,
        place=_name(parse_tokens(place.seq), place.gpus),
        quantity=QUANTITY,
        unit=UNIT,
        value=hours,
        outcome=f"short by {step.short}" if step.short else "",
        label="simulated",
        source=step.source,
        settings=step.settings,
        kernel_limit_share=kernel_limit_share(workload, step.seconds),
    )


def _papers() -> Iterator[Point]:
    for row in reported.numbers("fig1_hours_per_1b_tokens"):
        is_sppo = row["system"] == "sppo"
        yield Point(
            series=PAPER_SPPO if is_sppo else PAPER_PEERS,
            place=_name(parse_tokens(row["seq"]), row["gpus"]),
            quantity=QUANTITY,
            unit=UNIT,
            value=row["hours"],
            outcome="" if row["hours"] is not None else "oom",
            label="paper",
            source="arXiv 2503.10377, fig. 1",
            settings=row.get("note", ""),
        )


def _peers(emulated: PaperPoints) -> Iterator[Point]:
    """Peers of a committed emulation, in both readings: exposed messages."""
    places = {(point.seq, point.gpus): point for point in reported.large_points()}
    for verdict in emulated.verdicts:
        if verdict.system == "sppo" or (verdict.seq, verdict.gpus) not in places:
            continue
        workload = places[verdict.seq, verdict.gpus].workload(
            sequences_per_step=emulated.sequences_per_step
        )
        seconds = verdict.step_seconds if verdict.status == "ok" else None
        known = seconds is not None
        yield Point(
            series=verdict.rule_name,
            place=_name(parse_tokens(verdict.seq), verdict.gpus),
            quantity=QUANTITY,
            unit=UNIT,
            value=hours_per_billion_tokens(workload, seconds) if seconds is not None else None,
            outcome="" if known else OUTCOMES.get(verdict.status, verdict.status),
            label="simulated" if known else "emulated",
            source=published.source("1", SEQUENCES, emulated),
            settings=verdict.settings_text,
            kernel_limit_share=(
                kernel_limit_share(workload, seconds) if seconds is not None else None
            ),
        )


def _ahead(points: Sequence[Point], peers: Sequence[Point]) -> Iterator[str]:
    """A sentence for each place: the rows faster than SPPO's plan of this project."""
    for ours in points:
        if ours.series != OURS or ours.value is None:
            continue
        faster = [
            peer.series
            for peer in peers
            if peer.place == ours.place and peer.value is not None and peer.value < ours.value
        ]
        if faster:
            yield f"Faster than SPPO at {ours.place}: {'; '.join(faster)}."


def _peers_tables(emulated: PaperPoints | None, peers: Sequence[Point]) -> Iterator[Table]:
    """Every peer with its reading and layout; nothing without a committed emulation."""
    if emulated is None:
        return
    readings = {verdict.rule_name: verdict.reading_words for verdict in emulated.verdicts}
    rows = [
        [
            peer.place,
            peer.series,
            readings[peer.series],
            peer.settings,
            peer.outcome if peer.value is None else f"{peer.value:.1f} h",
            number(100 * share if (share := peer.kernel_limit_share) else None, "{:.0f} %"),
        ]
        for peer in peers
    ]
    titles = ["point", "row", "reading", "layout", "hours for 1B tokens", "of the kernel limit"]
    yield Table(heading="Peers, exposed messages", titles=titles, rows=rows, align="llllrr")


def _comparison(place: ReportedPoint, points: Sequence[Point], series: str) -> Comparison:
    name = _name(parse_tokens(place.seq), place.gpus)
    by_series = {point.series: point for point in points if point.place == name}
    ours = by_series[series]
    paper = by_series[PAPER_SPPO].value
    assert paper is not None
    causes = {
        PAPERS_PLAN: f"without slow short kernels {by_series[FULL_RATES].value:.1f} h",
        FULL_RATES: f"rates of {FULL_RATE_TOKENS:,} tokens a GPU at every length",
        OURS: ours.settings,
    }
    return Comparison(
        what=f"{name}: {series}",
        ours=ours.value,
        ours_label="simulated",
        paper=paper,
        form="{:.1f} h",
        cause=causes[series],
    )


def _table(places: Sequence[ReportedPoint], points: Sequence[Point]) -> Table:
    """MFU of every SPPO row, and its share of the most that the profile's kernels allow."""
    rows = []
    for place in places:
        workload = place.workload()
        for point in points:
            if point.place != _name(parse_tokens(place.seq), place.gpus) or point.value is None:
                continue
            seconds = point.value / hours_per_billion_tokens(workload, 1.0)
            utilisation = mfu(workload, seconds)
            rows.append(
                [
                    point.place,
                    point.series,
                    f"{point.value:.1f} h",
                    number(100 * utilisation, "{:.1f} %"),
                    number(100 * utilisation / kernel_limit(workload), "{:.0f} %"),
                ]
            )
    titles = ["point", "row", "hours for 1B tokens", "MFU, causal", "of the kernel limit"]
    return Table(heading="FLOP utilisation", titles=titles, rows=rows, align="llrrr")


def _name(tokens: int, gpus: int) -> str:
    return f"{length_name(tokens)}, {gpus} GPUs"


def _draw(figure: Any, points: Sequence[Point], peers: Sequence[Point]) -> None:
    looks: dict[str, drawing.Look] = {
        PAPER_SPPO: drawing.PAPERS,
        PAPERS_PLAN: drawing.OURS_IN_THE_PAPERS_PLAN,
        FULL_RATES: drawing.WHAT_IF,
        OURS: drawing.OURS,
        PAPER_PEERS: style.bar("megatron", hollow=True),
    }
    drawn = [point for point in peers if point.series != BY_HEADS]
    for point in drawn:
        looks[point.series] = _look(point.series)
    axes = figure.add_subplot()
    drawing.grouped_bars(axes, [*points, *drawn], looks)
    axes.set_ylabel(QUANTITY)


def _look(series: str) -> drawing.Look:
    system = {"DeepSpeed": "deepspeed", "PyTorch": "native"}.get(re.split(r"[ ,]", series)[0])
    if series.endswith(AT_BEST):
        return style.bar(system or "megatron")
    return style.bar(system or "megatron", pale=True, hatch="xx" if series == TUNED else "")
