"""Fig. 10: throughput of all systems at the 15 points, from committed emulations."""

from __future__ import annotations

from collections.abc import Container, Iterator, Sequence
from functools import partial
from typing import Any

from benchmarks.paper import boundaries_report, reported
from benchmarks.paper.items import drawing, published
from benchmarks.paper.items.item import Item, NotCommitted, Point, Table
from benchmarks.paper.items.miniature import fig10 as miniature
from benchmarks.paper.items.miniature.panel import with_miniature
from benchmarks.paper.items.throughput import (
    BY_HEADS,
    DEEPSPEED,
    SAME,
    SPPO,
    TUNED,
    Row,
    compared,
    memory_verdict,
    over,
    ratio_verdict,
    ratios_of,
    rows_of,
    sppo_plan,
    sppo_tokens_per_second,
)
from benchmarks.paper.verdicts import AT_BEST
from benchmarks.reporting import style
from benchmarks.reporting.text_table import number

DRAWN_SEQUENCES = 4

QUANTITY, UNIT = "throughput of the job", "tokens/s"

LOOKS: dict[str, drawing.Look] = {
    SAME: style.bar("megatron", pale=True),
    TUNED: style.bar("megatron", pale=True, hatch="xx"),
    DEEPSPEED: style.bar("deepspeed", pale=True),
    BY_HEADS: style.bar("deepspeed", pale=True, hatch="xx"),
    f"Megatron, {AT_BEST}": style.bar("megatron"),
    f"DeepSpeed, {AT_BEST}": style.bar("deepspeed"),
    f"PyTorch native, {AT_BEST}": style.bar("native"),
    SPPO: style.bar("sppo"),
}
"""The rows that are drawn, where the emulation has them."""


def make() -> Item:
    """The item, of the committed emulation of DRAWN_SEQUENCES. Raises OSError, RecordError.

    Raises NotCommitted without that emulation.
    """
    emulated = {count: published.read("10", count) for count in published.SEQUENCES}
    known = {count: points for count, points in emulated.items() if points is not None}
    if DRAWN_SEQUENCES not in known:
        raise NotCommitted(published.missing("10", DRAWN_SEQUENCES))
    rows = [row for count, points in known.items() for row in rows_of(count, points)]
    drawn = [row for row in rows if row.sequences_per_step == DRAWN_SEQUENCES]
    comparisons = [each.comparison for each in compared(drawn)]
    agreement = boundaries_report.agreement(known[DRAWN_SEQUENCES])
    absent = [published.missing("10", count) for count in emulated if count not in known]
    item = Item(
        key="fig10",
        title="Fig. 10: throughput at the 15 points, four sequences a step",
        compares="throughput and memory verdicts of all systems; SPPO over Megatron",
        points=[
            *(point for row in rows for point in _points(row)),
            *(
                point
                for pair in ratios_of(drawn).values()
                for point in _derived_points(*pair, emulated=known)
            ),
            *_paper_points(),
        ],
        comparisons=comparisons,
        agreement=agreement.removeprefix("agree with the paper: "),
        verdict=f"{memory_verdict(drawn)} {ratio_verdict(drawn)}",
        notes=[*_notes(drawn), *absent],
        tables=[_ratios(drawn), _by_sequences(drawn, rows), _verdicts(drawn)],
        draw=lambda figure: _draw(figure, drawn),
        inches=(12.0, 5.0),
        drawn_source=(
            "simulated times of emulated counts · profile a100-80g (assumed) · "
            "pale: a peer as the paper ran it"
        ),
    )
    return with_miniature(item, "10", partial(miniature.panel, emulated=drawn))


def _notes(rows: Sequence[Row]) -> list[str]:
    notes = [
        "Throughput is tokens a second of the whole job. The paper gives no number of sequences a "
        "step.",
        "Without idle time: Megatron's step less its idle share, (PP - 1) / (PP - 1 + sequences), "
        "over SPPO's step as it is.",
        "A whisker reaches to the throughput with all messages hidden, where the emulation has it.",
        "By sequences: SPPO's rate with one is that of its plan of today. All other rates are of "
        "emulated steps, where there are any. Else Megatron's rate follows from its step with "
        "four, in equal slots of one forward one backward. SPPO's is then taken as that with four.",
    ]
    pairs = ratios_of(rows)
    for model in dict.fromkeys(megatron.verdict.model for megatron, _ in pairs.values()):
        own = [pair for pair in pairs.values() if pair[0].verdict.model == model]
        idle = max(megatron.idle_share for megatron, _ in own)
        busy = [over(*pair) * (1 - pair[0].idle_share) for pair in own]
        notes.append(
            f"{model}: Megatron idles for up to {idle:.1%} of the step. Without idle time SPPO is "
            f"{min(busy):.2f}x to {max(busy):.2f}x as fast."
        )
    return notes


def _points(row: Row) -> Iterator[Point]:
    values = (
        (QUANTITY, row.tokens_per_second),
        (f"{QUANTITY}, messages hidden", row.hidden_tokens_per_second),
    )
    for quantity, value in values:
        if value is None and quantity != QUANTITY:
            continue
        yield Point(
            series=row.verdict.rule_name,
            place=row.place,
            quantity=quantity,
            unit=UNIT,
            value=value,
            outcome="" if value is not None else row.verdict.status,
            label="simulated" if value is not None else "emulated",
            source=row.source,
            settings=f"{row.verdict.settings_text}, {row.sequences_per_step} sequences a step",
            kernel_limit_share=row.limit_share if quantity == QUANTITY else None,
        )
    if row.verdict.peak_device_bytes is not None:
        yield Point(
            series=row.verdict.rule_name,
            place=row.place,
            quantity="device peak of the fullest role",
            unit="GiB",
            value=row.verdict.peak_device_bytes / 2**30,
            outcome=row.verdict.status,
            label="emulated",
            source=row.source,
            settings=f"{row.verdict.settings_text}, {row.sequences_per_step} sequences a step",
        )


def _derived_points(megatron: Row, sppo: Row, *, emulated: Container[int]) -> Iterator[Point]:
    """Megatron with sequences a step that were not emulated, and SPPO's plan for one."""
    for count in published.SEQUENCES:
        if count in emulated:
            continue
        yield Point(
            series=SAME,
            place=megatron.place,
            quantity=f"{QUANTITY}, in equal slots",
            unit=UNIT,
            value=megatron.tokens_per_second_at(count),
            label="simulated",
            source=f"{megatron.source}, its step with {megatron.sequences_per_step} sequences",
            settings=f"{megatron.verdict.settings_text}, {count} sequences a step",
        )
    plan = sppo_plan(sppo)
    yield Point(
        series=SPPO,
        place=sppo.place,
        quantity=QUANTITY,
        unit=UNIT,
        value=sppo_tokens_per_second(sppo),
        label="simulated",
        source=plan.source,
        settings=f"{plan.settings}, 1 sequence a step",
    )


def _paper_points() -> Iterator[Point]:
    statements = reported.numbers("fig10_statements")
    low, high = statements["gpt-7b"]["speedup_over_megatron_same_parallelism"]
    values = [("gpt-7b, least", low), ("gpt-7b, most", high)]
    larger = statements["gpt-65b"]["speedup_over_megatron"]
    values += [(f"gpt-65b, {length}", value) for length, value in larger.items()]
    for place, value in values:
        yield Point(
            series="the paper",
            place=place,
            quantity="SPPO over Megatron",
            unit="x",
            value=value,
            label="paper",
            source="arXiv 2503.10377, fig. 10 and its text",
        )


def _ratios(rows: Sequence[Row]) -> Table:
    cells = []
    for place, (megatron, sppo) in ratios_of(rows).items():
        ratio, idle = over(megatron, sppo), megatron.idle_share
        cells.append(
            [
                place,
                megatron.verdict.settings_text,
                f"{ratio:.2f}x",
                f"{idle:.1%}",
                f"{ratio * (1 - idle):.2f}x",
            ]
        )
    titles = [
        "point",
        "Megatron",
        "SPPO faster by, four sequences",
        "Megatron idle",
        "without idle time",
    ]
    heading = "SPPO over Megatron in the same degrees"
    return Table(heading=heading, titles=titles, rows=cells, align="llrrr")


def _by_sequences(drawn: Sequence[Row], rows: Sequence[Row]) -> Table:
    """rows: those of all numbers of sequences a step that were emulated."""
    rates = {
        (row.sequences_per_step, row.place, row.verdict.rule_name): row.tokens_per_second
        for row in rows
    }
    cells = []
    for place, (megatron, sppo) in ratios_of(drawn).items():
        peers, ours = [], []
        for count in published.SEQUENCES:
            own = sppo_tokens_per_second(sppo) if count == 1 else sppo.tokens_per_second
            peer = rates.get((count, place, SAME)) or megatron.tokens_per_second_at(count)
            peers.append(peer or 0.0)
            ours.append((count > 1 and rates.get((count, place, SPPO))) or own or 0.0)
        ratios = [f"{own / peer:.2f}x" for own, peer in zip(ours, peers, strict=True)]
        cells.append([place, *(f"{value:,.0f}" for value in (*peers, *ours)), *ratios])
    titles = [
        "point",
        *(f"Megatron, {count}" for count in published.SEQUENCES),
        *(f"SPPO, {count}" for count in published.SEQUENCES),
        *(f"SPPO faster by, {count}" for count in published.SEQUENCES),
    ]
    heading = "Tokens a second by sequences a step"
    return Table(heading=heading, titles=titles, rows=cells, align="l" + "r" * 9)


def _verdicts(rows: Sequence[Row]) -> Table:
    cells = [
        [
            row.place,
            row.verdict.rule_name,
            row.verdict.settings_text,
            number(row.tokens_per_second, "{:,.0f}"),
            number(None if row.limit_share is None else 100 * row.limit_share, "{:.0f} %"),
            row.verdict.status,
            row.verdict.paper_outcome or "-",
        ]
        for row in rows
    ]
    titles = ["point", "row", "layout", "tokens/s", "of the kernel limit", "emulated", "paper"]
    return Table(heading="All rows", titles=titles, rows=cells, align="lllrrll")


def _draw(figure: Any, rows: Sequence[Row]) -> None:
    models = list(dict.fromkeys(row.verdict.model for row in rows))
    present = {row.verdict.rule_name for row in rows}
    looks = {name: look for name, look in LOOKS.items() if name in present}
    for axes, model in zip(figure.subplots(1, len(models), squeeze=False)[0], models, strict=True):
        shown = [
            row for row in rows if row.verdict.model == model and row.verdict.rule_name in looks
        ]
        points = [_drawn(row) for row in shown]
        highs = {
            (row.verdict.rule_name, row.verdict.seq): row.hidden_tokens_per_second
            for row in shown
            if row.hidden_tokens_per_second is not None
        }
        drawing.grouped_bars(axes, points, looks, form="{:,.0f}", upright=True, highs=highs)
        axes.set_title(f"{model}, {shown[0].verdict.gpus} GPUs")
        axes.set_ylabel(UNIT)
        axes.yaxis.set_major_formatter("{x:,.0f}")


def _drawn(row: Row) -> Point:
    words = {"unavailable": "cannot run"}
    return Point(
        series=row.verdict.rule_name,
        place=row.verdict.seq,
        quantity=QUANTITY,
        unit=UNIT,
        value=row.tokens_per_second,
        outcome=words.get(row.verdict.status, row.verdict.status),
        label="simulated" if row.tokens_per_second is not None else "emulated",
        source=row.source,
    )
