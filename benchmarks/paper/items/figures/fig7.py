"""Fig. 7: one layer at 128K tokens: its time and the bubble by the length of a subsequence."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

from benchmarks.paper import reported
from benchmarks.paper.items.item import Item, Point, Table
from benchmarks.paper.items.miniature import fig7 as miniature
from benchmarks.paper.items.miniature.panel import with_miniature
from benchmarks.paper.items.profile import source_words, testbed
from benchmarks.reporting import style
from sppo.config.models import MODELS
from sppo.config.sizes import length_name, parse_tokens
from sppo.cost_model.times import block_seconds

MODEL = "gpt-7b"
"""Its layers have the paper's width of 4,096."""

COUNTS = (1, 2, 4, 8, 16, 32, 64, 128)
"""Values of N."""

STAGES = (2, 4)
"""Values of PP whose bubble is shown."""

FLAT_TOKENS = 2048
"""The paper: flat down to about 2K tokens a subsequence, rising below."""

FLAT_WITHIN = 0.02
"""A time over the least up to which the curve counts as flat."""

LAYER = "forward and backward of one layer"

RATE = "attention forward, TFLOP/s"


def layer_seconds(count: int) -> float:
    """All subsequences of equal length through one layer on one GPU, forward and backward."""
    tokens = parse_tokens(reported.numbers("fig7_layer")["seq"])
    length = tokens // count
    total = 0.0
    for index in range(count):
        seconds = block_seconds(
            MODELS[MODEL], testbed(), start=index * length, tokens=length, shards=1
        )
        total += seconds.forward + seconds.backward
    return total


def make() -> Item:
    """The item. Raises OSError."""
    tokens = parse_tokens(reported.numbers("fig7_layer")["seq"])
    seconds = {tokens // count: layer_seconds(count) for count in COUNTS}
    least = min(seconds.values())
    ratios = {length: value / least for length, value in seconds.items()}
    flat = min(length for length, ratio in ratios.items() if ratio <= 1 + FLAT_WITHIN)
    item = Item(
        key="fig7",
        title="Fig. 7: time and bubble by the length of a subsequence",
        compares="one layer of width 4,096 at 128K tokens; bubble at PP 2 and 4",
        points=[*_time_points(seconds), *_bubble_points(tokens)],
        agreement=(
            f"over the least time: {ratios[FLAT_TOKENS * 2]:.2f}x at 4K, "
            f"{ratios[FLAT_TOKENS]:.2f}x at 2K, {ratios[FLAT_TOKENS // 2]:.2f}x at 1K tokens"
        ),
        verdict=_verdict(flat),
        notes=[
            "Subsequences are of equal length, on one GPU.",
            "The paper prints no number here, and its axis is partly illegible. So no number is "
            "compared.",
            "The bubble ratio is (PP - 1) / N, idle time over busy time.",
        ],
        tables=[_table(seconds, least)],
        draw=lambda figure: _draw(figure, seconds),
        inches=(10.0, 4.2),
        drawn_source=f"simulated · {source_words()}",
    )
    return with_miniature(item, "7", partial(miniature.panel, simulated=seconds))


def _verdict(flat: int) -> str:
    """flat: the shortest length whose time is within FLAT_WITHIN of the least."""
    words = f"Within {FLAT_WITHIN:.0%} of the least time down to {length_name(flat)} tokens here"
    if flat <= FLAT_TOKENS:
        return f"{words}, as in the paper: flat down to about {length_name(FLAT_TOKENS)}."
    return (
        f"{words}, rising below. In the paper the curve is flat down to about "
        f"{length_name(FLAT_TOKENS)}, so the rise begins earlier here."
    )


def _attention_rate(length: int) -> float:
    """TFLOP/s of attention's forward in the profile."""
    return testbed().rate(length, "attention_forward") / 1e12


def _time_points(seconds: dict[int, float]) -> Iterator[Point]:
    for length, value in seconds.items():
        yield Point(
            series="simulated",
            place=f"{length} tokens",
            quantity=LAYER,
            unit="ms",
            value=value * 1000,
            label="simulated",
            source=source_words(),
            settings="width 4,096, 128K tokens, subsequences of equal length, one GPU",
        )


def _bubble_points(tokens: int) -> Iterator[Point]:
    for stages in STAGES:
        for count in COUNTS:
            yield Point(
                series=f"bubble, PP {stages}",
                place=f"{tokens // count} tokens",
                quantity="bubble ratio, idle over busy",
                unit="",
                value=(stages - 1) / count,
                label="computed",
                source="(PP - 1) / N",
                settings=f"PP {stages}, N {count}, equal costs",
            )


def _table(seconds: dict[int, float], least: float) -> Table:
    rows = [
        [
            f"{length:,}",
            str(count),
            f"{seconds[length] * 1000:.0f} ms",
            f"{seconds[length] / least:.2f}x",
            f"{_attention_rate(length):.0f}",
            *(f"{(stages - 1) / count:.3f}" for stages in STAGES),
        ]
        for count, length in zip(COUNTS, seconds, strict=True)
    ]
    bubbles = [f"bubble, PP {stages}" for stages in STAGES]
    titles = ["tokens a subsequence", "N", "one layer", "over the least", RATE, *bubbles]
    return Table(heading="By length", titles=titles, rows=rows, align="rrrrr" + "r" * len(STAGES))


def _draw(figure: Any, seconds: dict[int, float]) -> None:
    left, right = figure.subplots(1, 2)
    names = [length_name(length) for length in seconds]
    places = range(len(names))
    values = [value * 1000 for value in seconds.values()]
    look = style.look("sppo")
    left.plot(places, values, marker=look.marker, color=look.colour, label="one layer, simulated")
    left.set_ylabel("ms, forward and backward")
    for stages, line in zip(STAGES, ("-", "--"), strict=True):
        ratios = [(stages - 1) / count for count in COUNTS]
        right.plot(places, ratios, line, color=style.INK, label=f"bubble ratio, PP {stages}")
    right.set_ylabel("bubble ratio, idle over busy")
    _name_lengths((left, right), names)


def _name_lengths(panels: Sequence[Any], names: Sequence[str]) -> None:
    for axes in panels:
        axes.set_xticks(range(len(names)), names)
        axes.set_xlabel("tokens of a subsequence")
        axes.set_ylim(0, 1.08 * axes.dataLim.y1)
