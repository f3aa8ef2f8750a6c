"""Fig. 7 in miniature: busy time and bubble of a measured pipeline by the subsequence's length."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from benchmarks.paper.items.item import Point, Table
from benchmarks.paper.items.miniature.panel import HEADING, Panel
from benchmarks.paper.miniature import result
from benchmarks.paper.miniature.report import place_words
from benchmarks.paper.miniature.result import MeasuredFigure, MeasuredPlace, MeasuredRow
from benchmarks.paper.miniature.settings import count_row
from benchmarks.reporting import style
from benchmarks.reporting.tables import spread_words
from benchmarks.reporting.text_table import NO_NUMBER, number
from sppo.config.sizes import length_name

BUSY = "busy time of a rank in a step"

BUBBLE = "bubble ratio, idle over busy, of a measured step"


@dataclass(frozen=True, kw_only=True)
class Length:
    """The launches with one N: seconds busy, and idle over busy, by number of the launch."""

    count: int
    tokens: int
    row: MeasuredRow
    busy: Mapping[int, float]
    bubble: Mapping[int, float]

    @property
    def settled(self) -> bool:
        """Whether noise spoils no times of the row."""
        return self.row.summary.timing != "unsettled"

    @property
    def busy_seconds(self) -> float | None:
        """The median; None without a launch."""
        return statistics.median(self.busy.values()) if self.busy else None

    @property
    def bubble_ratio(self) -> float | None:
        """The median; None without a launch."""
        return statistics.median(self.bubble.values()) if self.bubble else None


def panel(measured: MeasuredFigure, *, simulated: Mapping[int, float]) -> Panel:
    """The panel. simulated: seconds of a layer by the length of a subsequence, in tokens."""
    (place,) = measured.places
    lengths = lengths_of(place)
    return Panel(
        verdict=verdict(lengths, simulated),
        points=list(_points(lengths, place, result.source(measured))),
        tables=[_table(lengths, place.ranks)],
        notes=[
            f"{place_words(place)}: PP {place.ranks}, one chunk a stage, subsequences of equal "
            "length, nothing offloaded.",
            "Busy time is a launch's median step without its bubble. The bubble is that of the "
            "launch's last step.",
            "A step of the axis counts as a rise or a fall if all neighbouring launches agree. "
            "Noise may spoil the times of neither row.",
        ],
        draw=lambda figure: _draw(figure, lengths, place.ranks),
    )


def lengths_of(place: MeasuredPlace) -> list[Length]:
    """The rows by N; of launches with a timeline."""
    by_name = {row.summary.row: row for row in place.rows}
    counts = [2**power for power in range(len(by_name))]
    return [
        _length(count, place.sequence_tokens // count, by_name[count_row(count)])
        for count in counts
    ]


def _length(count: int, tokens: int, row: MeasuredRow) -> Length:
    shares = {
        launch.launch: (launch.step_seconds, launch.bubble_share)
        for launch in row.launches
        if launch.bubble_share is not None
    }
    return Length(
        count=count,
        tokens=tokens,
        row=row,
        busy={number: seconds * (1 - share) for number, (seconds, share) in shares.items()},
        bubble={number: share / (1 - share) for number, (_, share) in shares.items()},
    )


def step_sign(before: Mapping[int, float], after: Mapping[int, float]) -> int:
    """1 if all launches with a number in both rise, -1 if all fall; else 0, which is unclear."""
    ratios = [after[number] / before[number] for number in before.keys() & after.keys()]
    if ratios and min(ratios) > 1:
        return 1
    return -1 if ratios and max(ratios) < 1 else 0


def _busy_sign(before: Length, after: Length) -> int:
    """The sign of the busy time; unclear where noise spoils the times of either row."""
    return step_sign(before.busy, after.busy) if before.settled and after.settled else 0


def verdict(lengths: Sequence[Length], simulated: Mapping[int, float]) -> str:
    """Rises, falls and ends of both curves, counted."""
    steps = list(pairwise(lengths))
    busy = [_busy_sign(before, after) for before, after in steps]
    bubble = [
        step_sign(before.bubble, after.bubble) if before.settled and after.settled else 0
        for before, after in steps
    ]
    by_length = [simulated[tokens] for tokens in sorted(simulated, reverse=True)]
    rises = [after > before for before, after in pairwise(by_length)]
    ends = _busy_sign(lengths[0], lengths[-1])
    words = {1: "longer", -1: "shorter", 0: "not clearly longer or shorter"}
    agrees = ends == (1 if by_length[-1] > by_length[0] else -1)
    return (
        f"busy time with the shortest subsequences is {words[ends]} than with the longest. "
        f"This sign {'agrees' if agrees else 'does not agree'} with the simulated panel. "
        f"Busy time rises at {busy.count(1)} of {len(busy)} halvings and falls at "
        f"{busy.count(-1)}; simulated, it rises at {sum(rises)} of {len(rises)}. "
        f"The bubble falls at {bubble.count(-1)} of {len(bubble)} doublings of N, by the formula "
        "at all."
    )


def _points(lengths: Sequence[Length], place: MeasuredPlace, source: str) -> Iterator[Point]:
    for length in lengths:
        summary = length.row.summary
        step = None if summary.step_seconds is None else summary.step_seconds.median
        for quantity, unit, value in (
            ("step", "s", step),
            (BUSY, "s", length.busy_seconds),
            (BUBBLE, "", length.bubble_ratio),
        ):
            yield Point(
                series=f"{place.workload}, PP {place.ranks}",
                place=f"{length.tokens} tokens",
                quantity=quantity,
                unit=unit,
                value=value,
                outcome=summary.status if value is None else summary.timing or "",
                label="measured",
                source=source,
                settings=summary.settings,
            )


def _table(lengths: Sequence[Length], stages: int) -> Table:
    known = [length.busy_seconds for length in lengths if length.busy_seconds is not None]
    least = min(known, default=1.0)
    rows = []
    for length in lengths:
        summary, busy = length.row.summary, length.busy_seconds
        rows.append(
            [
                f"{length.tokens:,}",
                str(length.count),
                spread_words(summary.step_seconds) if summary.status == "ok" else summary.status,
                summary.timing or NO_NUMBER,
                number(busy, "{:.3f}"),
                number(None if busy is None else busy / least, "{:.2f}x"),
                number(length.bubble_ratio, "{:.3f}"),
                f"{(stages - 1) / length.count:.3f}",
            ]
        )
    titles = [
        "tokens a subsequence",
        "N",
        "step s, median [quartiles]",
        "timing",
        "busy, s",
        "over the least",
        "bubble, measured",
        "bubble, (PP - 1) / N",
    ]
    return Table(heading=HEADING, titles=titles, rows=rows, align="rrrlrrrr")


def _draw(figure: Any, lengths: Sequence[Length], stages: int) -> None:
    left, right = figure.subplots(1, 2)
    look = style.look("sppo")
    places = range(len(lengths))
    line: dict[str, Any] = {"color": look.colour, "marker": look.marker, "linestyle": "--"}
    known = [(place, length) for place, length in enumerate(lengths) if length.busy]
    busy = [length.busy_seconds for _, length in known]
    left.plot([place for place, _ in known], busy, label="busy time of a rank, measured", **line)
    left.set_ylabel("s a step")
    ratios = [length.bubble_ratio for _, length in known]
    right.plot([place for place, _ in known], ratios, label="bubble ratio, measured", **line)
    formula = [(stages - 1) / length.count for length in lengths]
    right.plot(places, formula, ":", color=style.INK, label=f"(PP - 1) / N, PP {stages}")
    right.set_ylabel("bubble ratio, idle over busy")
    for axes in (left, right):
        axes.set_xticks(places, [length_name(length.tokens) for length in lengths])
        axes.set_xlabel("tokens of a subsequence, in miniature")
        axes.margins(y=0.08)
        axes.set_ylim(bottom=0)
