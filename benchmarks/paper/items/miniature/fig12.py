"""Fig. 12 in miniature: the longest sequence by ranks, measured under the device limit."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import combinations
from typing import Any

from benchmarks.paper.items import drawing
from benchmarks.paper.items.item import Point, Table
from benchmarks.paper.items.miniature.panel import HEADING, Panel
from benchmarks.paper.items.miniature.signs import agreement_words, order_of
from benchmarks.paper.miniature import result
from benchmarks.paper.miniature.report import place_words
from benchmarks.paper.miniature.result import LongestPlace, MeasuredFigure
from benchmarks.paper.verdicts import LongestVerdict
from benchmarks.reporting import style
from benchmarks.reporting.tables import size_words
from benchmarks.studies.longest_result import LongestRow
from sppo.config.sizes import length_name

QUANTITY = "longest sequence, in miniature"

SYSTEMS = ("sppo", "deepspeed", "megatron")
"""Systems of both panels."""

MEMORIES = {"oom": "device memory", "host_oom": "host memory"}
"""What ends a search, by the status of the first longer launch."""

NO_PLAN = "infeasible"


def panel(measured: MeasuredFigure, *, emulated: Sequence[LongestVerdict]) -> Panel:
    """The panel. emulated: the rows of the emulated panel."""
    source = result.source(measured)
    return Panel(
        verdict=verdict(measured.longest, emulated),
        points=[point for place in measured.longest for point in _points(place, source)],
        tables=[_table(measured.longest), _orders(measured.longest, emulated)],
        notes=[
            *(f"{place_words(place)}." for place in measured.longest),
            "Every length is one launch up to its accounted step under the enforced limit. No "
            "times are taken, so four ranks may share two cores.",
            f'A search ends at {measured.longest[0].at_most_tokens:,} tokens: an "at least". Of '
            "a tuned row only the settings of least memory are searched.",
        ],
        draw=lambda figure: _draw(figure, measured.longest),
    )


def is_capped(row: LongestRow, place: LongestPlace) -> bool:
    """Whether the search ended at its cap, so that longer sequences may fit."""
    return row.longest_tokens + place.step_tokens > place.at_most_tokens


def binding(row: LongestRow, place: LongestPlace) -> str:
    """What ends the search, in words."""
    if is_capped(row, place):
        return "cap of the search"
    status, _, reason = row.fails_with.partition(": ")
    if status == NO_PLAN:
        return f"no plan fits: {reason}"
    return MEMORIES.get(status, row.fails_with)


def longest_of(place: LongestPlace, system: str) -> tuple[int, bool] | None:
    """The system's longest sequence over its rows, and whether this is a cap; None without a row.

    A row that could not run for another reason than memory is left out.
    """
    known = [
        (row.longest_tokens, is_capped(row, place))
        for row in place.rows
        if row.system == system
        and (row.longest_tokens or row.fails_with.partition(": ")[0] in (*MEMORIES, NO_PLAN))
    ]
    return max(known, default=None)


def measured_order(place: LongestPlace, first: str, second: str) -> str | None:
    """Which of two systems goes farther; None where a cap or an absent row hides the order."""
    lengths = (longest_of(place, first), longest_of(place, second))
    if lengths[0] is None or lengths[1] is None or (lengths[0][1] and lengths[1][1]):
        return None
    return order_of([(lengths[0][0], lengths[1][0])])


def emulated_order(rows: Sequence[LongestVerdict], first: str, second: str) -> str:
    """The same of the emulated rows, over all numbers of GPUs on which both run."""
    longest: dict[int, dict[str, int]] = {}
    for row in rows:
        if row.longest_tokens:
            at_gpus = longest.setdefault(row.gpus, {})
            at_gpus[row.system] = max(row.longest_tokens, at_gpus.get(row.system, 0))
    pairs = [(known.get(first), known.get(second)) for known in longest.values()]
    return order_of((a, b) for a, b in pairs if a is not None and b is not None)


def orders(
    places: Sequence[LongestPlace], emulated: Sequence[LongestVerdict]
) -> Iterator[tuple[str, str | None, str]]:
    """Place and pair in words, the measured order and the emulated one."""
    for place in places:
        for first, second in combinations(SYSTEMS, 2):
            names = (style.look(first).name, style.look(second).name)
            words = f"{place.place}: {names[0]} over {names[1]}"
            order = measured_order(place, first, second)
            yield words, order, emulated_order(emulated, first, second)


def verdict(places: Sequence[LongestPlace], emulated: Sequence[LongestVerdict]) -> str:
    """Who goes farthest, and how many orders agree with the emulated panel."""
    known = [(order, other) for _, order, other in orders(places, emulated) if order is not None]
    farthest = sum(_is_farthest(place, "sppo") for place in places)
    capped = sum(is_capped(row, place) for place in places for row in place.rows)
    return (
        f"SPPO goes farthest on {farthest} of {len(places)} numbers of ranks. "
        f"{agreement_words(known, 'orders of two systems')} with the emulated panel. "
        f"{capped} searches ended at their cap."
    )


def _is_farthest(place: LongestPlace, system: str) -> bool:
    """Whether no other system goes as far."""
    own = longest_of(place, system)
    others = [row.longest_tokens for row in place.rows if row.system != system]
    return own is not None and own[0] > max(others, default=0)


def _points(place: LongestPlace, source: str) -> Iterator[Point]:
    for row in place.rows:
        tokens = row.longest_tokens
        capped = is_capped(row, place)
        yield Point(
            series=row.row,
            place=place.place,
            quantity=QUANTITY,
            unit="tokens",
            value=tokens or None,
            outcome="at least: the search was capped" if capped else row.fails_with or "none fits",
            label="measured",
            source=source,
            settings=f"{row.settings_text}; ends by: {binding(row, place)}",
        )


def _length_words(row: LongestRow, place: LongestPlace) -> str:
    if not row.longest_tokens:
        return "none"
    return f"{'≥ ' if is_capped(row, place) else ''}{length_name(row.longest_tokens)}"


def _table(places: Sequence[LongestPlace]) -> Table:
    cells = [
        [
            place.place,
            row.row,
            row.settings_text,
            _length_words(row, place),
            size_words(row.peak_device_bytes),
            binding(row, place),
        ]
        for place in places
        for row in place.rows
    ]
    titles = ["ranks", "row", "settings", "longest, tokens", "device peak", "what ends the search"]
    return Table(heading=HEADING, titles=titles, rows=cells, align="lllrrl")


def _orders(places: Sequence[LongestPlace], emulated: Sequence[LongestVerdict]) -> Table:
    cells = [
        [words, order or "unknown: both are capped, or one has no row", other]
        for words, order, other in orders(places, emulated)
    ]
    titles = ["ranks and systems", "measured in miniature", "emulated, 32 to 128 GPUs"]
    return Table(heading="Orders in both panels", titles=titles, rows=cells)


def _draw(figure: Any, places: Sequence[LongestPlace]) -> None:
    axes = figure.add_subplot()
    looks: dict[str, drawing.Look] = {}
    points: list[Point] = []
    words: dict[tuple[str, str], str] = {}
    for place in places:
        for row in place.rows:
            series = f"{row.row}, measured"
            hatch = {"hatch": "xx"} if row.row == "Megatron tuned" else {}
            looks[series] = {**style.bar(row.system), **hatch}
            points.append(
                Point(
                    series=series,
                    place=place.place,
                    quantity=QUANTITY,
                    unit="tokens",
                    value=row.longest_tokens or None,
                    outcome=binding(row, place)[:30],
                    label="measured",
                    source=place.place,
                )
            )
            if row.longest_tokens:
                words[series, place.place] = _length_words(row, place)
    drawing.grouped_bars(axes, points, looks, upright=True, words=words)
    axes.set_ylabel("tokens, in miniature")
    limit = style.limit_words(places[0].device_memory_bytes)
    axes.set_title(f"measured: {limit}; ≥: the search ended at its cap")
