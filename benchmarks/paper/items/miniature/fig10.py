"""Fig. 10 in miniature: throughput of all systems by length on CPU ranks, under a device limit."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from benchmarks.paper.items import drawing
from benchmarks.paper.items.item import Point, Table
from benchmarks.paper.items.miniature.panel import HEADING, Panel, row_cells
from benchmarks.paper.items.miniature.signs import (
    agreement_words,
    common_sign,
    order_of,
    ratio_of,
    sign_of,
)
from benchmarks.paper.items.throughput import BY_HEADS, DEEPSPEED, SAME, SPPO, TUNED, Row, over
from benchmarks.paper.miniature import report, result
from benchmarks.paper.miniature.result import MeasuredFigure, MeasuredPlace, MeasuredRow
from benchmarks.reporting import style
from benchmarks.reporting.text_table import NO_NUMBER

QUANTITY, UNIT = "throughput of the job, in miniature", "tokens/s"

RATIO = "SPPO over the row, in miniature"

PEERS: dict[str, tuple[str, ...]] = {
    "DeepSpeed Ulysses": (DEEPSPEED, BY_HEADS),
    "Megatron in SPPO's layout": (SAME,),
    "Megatron tuned": (TUNED,),
}
"""Measured row -> the emulated rows that stand for it."""

ORDERED = (("sppo", "megatron"), ("sppo", "deepspeed"), ("deepspeed", "megatron"))
"""Pairs of systems whose order in memory is compared."""


def panel(measured: MeasuredFigure, *, emulated: Sequence[Row]) -> Panel:
    """The panel. emulated: the rows of the emulated panel that are drawn."""
    source = result.source(measured)
    return Panel(
        verdict=verdict(measured.places, emulated),
        points=[point for place in measured.places for point in _points(place, source)],
        tables=[_table(measured.places), _signs(measured.places, emulated)],
        notes=[
            *(f"{report.place_words(place)}." for place in measured.places),
            "Rows are launched in turns. A ratio is the median of launches that ran next to each "
            "other. None is claimed where noise spoils the times.",
            "At the last length each row has one launch: the place shows who fits.",
            "Settings of tuned rows: the fastest known ones that fit. Beyond the first length they "
            "are emulated before. An enforced launch has the last word.",
        ],
        draw=lambda figure: _draw(figure, measured.places),
    )


def verdict(places: Sequence[MeasuredPlace], emulated: Sequence[Row]) -> str:
    """How many signs and orders agree with the emulated panel."""
    orders = [(measured_order(places, *pair), emulated_order(emulated, *pair)) for pair in ORDERED]
    unsettled = sum(sign == "not claimed" for _, _, sign in _measured_signs(places))
    signs = agreement_words(
        list(_sign_pairs(places, emulated)), "claimed signs of SPPO over a peer"
    )
    return (
        f"{signs} with the emulated panel, {unsettled} are not claimed. "
        f"{agreement_words(orders, 'orders in memory')} (who still fits where another does not)."
    )


def _measured_signs(places: Sequence[MeasuredPlace]) -> Iterator[tuple[str, str, str]]:
    """Place, peer and sign of SPPO over the peer, where both ran."""
    for place in places:
        for peer in PEERS:
            if ratio_of(place, SPPO, peer) is not None:
                yield place.place, peer, sign_of(place, SPPO, peer)


def _sign_pairs(
    places: Sequence[MeasuredPlace], emulated: Sequence[Row]
) -> Iterator[tuple[str, str]]:
    """Measured and emulated sign, where both are known."""
    for _, peer, sign in _measured_signs(places):
        other = common_sign(emulated_ratios(emulated, peer))
        if sign != "not claimed" and other is not None:
            yield sign, other


def emulated_ratios(emulated: Sequence[Row], peer: str) -> list[float]:
    """SPPO over the emulated rows of a measured peer, at all points where both have a step."""
    steps = {(row.verdict.rule_name, row.place): row for row in emulated if row.seconds}
    return [
        over(row, steps[SPPO, place])
        for (name, place), row in steps.items()
        if name in PEERS[peer] and (SPPO, place) in steps
    ]


def measured_order(places: Sequence[MeasuredPlace], first: str, second: str) -> str:
    """Which system fits where the other does not."""
    fits = [(_fits(place, first), _fits(place, second)) for place in places]
    return order_of((a, b) for a, b in fits if a is not None and b is not None)


def _fits(place: MeasuredPlace, system: str) -> bool | None:
    """Whether a row of the system ran; None where none could for another reason than memory."""
    statuses = [row.summary.status for row in place.rows if row.summary.system == system]
    known = [status for status in statuses if status in ("ok", "oom", "host_oom", "infeasible")]
    return any(status == "ok" for status in known) if known else None


def emulated_order(emulated: Sequence[Row], first: str, second: str) -> str:
    """The same of the emulated points."""
    fits: dict[str, dict[str, bool]] = {}
    for row in emulated:
        if row.verdict.status in ("ok", "oom"):
            at_place = fits.setdefault(row.place, {})
            fit = row.verdict.status == "ok"
            at_place[row.verdict.system] = at_place.get(row.verdict.system, False) or fit
    pairs = [(known.get(first), known.get(second)) for known in fits.values()]
    return order_of((a, b) for a, b in pairs if a is not None and b is not None)


def _rate(place: MeasuredPlace, row: MeasuredRow) -> tuple[float, float] | None:
    """Tokens a second of the job, median and upper quartile; None without times."""
    rate = row.summary.tokens_per_second_per_rank
    return None if rate is None else (rate.median * place.ranks, rate.high * place.ranks)


def _points(place: MeasuredPlace, source: str) -> Iterator[Point]:
    for row in place.rows:
        rate, summary = _rate(place, row), row.summary
        yield Point(
            series=summary.row,
            place=f"{place.place} tokens",
            quantity=QUANTITY,
            unit=UNIT,
            value=None if rate is None else rate[0],
            outcome=summary.status if rate is None else summary.timing or "",
            label="measured",
            source=source,
            settings=summary.settings,
        )
    for ratio in place.ratios:
        if ratio.row == SPPO:
            yield Point(
                series=ratio.over,
                place=f"{place.place} tokens",
                quantity=RATIO,
                unit="x",
                value=ratio.ratio,
                outcome=_interval(ratio) if ratio.ratio else ratio.reason or "not claimed",
                label="measured",
                source=source,
            )


def _interval(ratio: result.MeasuredRatio) -> str:
    known = ratio.low is not None and ratio.high is not None
    return f"interval {ratio.low:.3f} to {ratio.high:.3f}" if known else ""


def _table(places: Sequence[MeasuredPlace]) -> Table:
    cells = []
    for place in places:
        for row in place.rows:
            ratio = ratio_of(place, SPPO, row.summary.row)
            cells.append([place.place, *row_cells(row, ratio)])
    titles = [
        "tokens",
        "row",
        "settings",
        "status",
        "timing",
        "step s, median [quartiles]",
        "SPPO faster by [interval]",
        "device peak",
    ]
    return Table(heading=HEADING, titles=titles, rows=cells, align="rllllrrr")


def _signs(places: Sequence[MeasuredPlace], emulated: Sequence[Row]) -> Table:
    """Signs and orders beside those of the emulated panel."""
    cells = []
    for place, peer, sign in _measured_signs(places):
        ratios = emulated_ratios(emulated, peer)
        words = f"{min(ratios):.2f}x to {max(ratios):.2f}x" if ratios else NO_NUMBER
        common = common_sign(ratios) or "none in common"
        cells.append([f"SPPO over {peer}, {place} tokens", sign, f"{common}, {words}"])
    for first, second in ORDERED:
        names = (style.look(first).name, style.look(second).name)
        order = measured_order(places, first, second)
        other = emulated_order(emulated, first, second)
        cells.append([f"{names[0]} fits longer than {names[1]}", order, other])
    titles = ["sign or order", "measured in miniature", "emulated"]
    return Table(heading="Signs and orders in both panels", titles=titles, rows=cells)


def _draw(figure: Any, places: Sequence[MeasuredPlace]) -> None:
    axes = figure.add_subplot()
    looks: dict[str, drawing.Look] = {}
    points: list[Point] = []
    highs: dict[tuple[str, str], float] = {}
    words: dict[tuple[str, str], str] = {}
    for place in places:
        name = f"{place.place} tokens"
        for row in place.rows:
            summary, rate = row.summary, _rate(place, row)
            series = f"{summary.row}, measured"
            looks[series] = _look(summary.system, summary.row)
            points.append(
                Point(
                    series=series,
                    place=name,
                    quantity=QUANTITY,
                    unit=UNIT,
                    value=None if rate is None else rate[0],
                    outcome=summary.status,
                    label="measured",
                    source=name,
                )
            )
            if rate is not None:
                highs[series, name] = rate[1]
                if summary.timing == "unsettled":
                    words[series, name] = f"{rate[0]:,.0f}, unsettled"
    drawing.grouped_bars(
        axes, points, looks, form="{:,.0f}", upright=True, highs=highs, words=words
    )
    axes.set_ylabel(f"{UNIT}, in miniature")
    place, limit = places[0], style.limit_words(places[0].device_memory_bytes)
    about = f"{place.workload}, {place.ranks} ranks, {limit}"
    axes.set_title(f"measured: {about}; whiskers: upper quartile")


def _look(system: str, row: str) -> drawing.Look:
    look = style.bar(system)
    return {**look, "hatch": "xx"} if row == "Megatron tuned" else look
