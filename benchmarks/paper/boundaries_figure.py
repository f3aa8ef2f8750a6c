"""The paper's boundaries as figures: peaks under the card's memory, and longest sequences."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from benchmarks.paper.boundaries import LONGEST_AT_MOST_FACTOR
from benchmarks.paper.boundaries_report import agreement
from benchmarks.paper.reported import LARGE_MODEL
from benchmarks.paper.verdicts import AS_THE_PAPER_RAN, LongestVerdict, PaperPoints, Verdict
from benchmarks.records.record import group_by
from benchmarks.reporting import style
from sppo.config.sizes import GIB, format_bytes, length_name

MILLION = 1024**2

_LABELS = {
    "Megatron, the paper's SPPO degrees": "Megatron-Core in the paper's SPPO layout (table 4)",
    "Megatron, tuned degrees": "Megatron-Core in the paper's tuned layout",
    "DeepSpeed": "DeepSpeed Ulysses over all GPUs",
    "SPPO": "SPPO in this project's plan",
}
"""Whose layout a row has, by the row's name in the JSON."""
_ABOVE: dict[str, Any] = {"xytext": (0, 3), "ha": "center", "va": "bottom"}

Row = TypeVar("Row")


def draw(points: PaperPoints, path: Path) -> None:
    """Write the PNG of fig. 10 if there are verdicts, else of fig. 12. Raises OSError."""
    if points.verdicts:
        title = f"Device memory at the paper's points (fig. {points.figure or '10'})"
        counts = re.sub(r" \(.*\)", "", agreement(points))  # by rows, under other names than here
        note = (
            f"{counts.capitalize()}. A bar above the dashed line is out of memory. "
            "Red words: what the paper says where it differs."
        )
        if any(verdict.at_best for verdict in points.verdicts):
            note += " Pale: a peer as the paper ran it."
    else:
        title = f"Longest sequence of {LARGE_MODEL} that fits (fig. 12)"
        note = (
            f"≥ and arrow: the search stopped, at the latest at {LONGEST_AT_MOST_FACTOR} times the "
            "paper's SPPO; longer sequences may fit. Hollow: what the paper reports."
        )
    count = points.sequences_per_step
    title += f", {count} sequence{'s' if count > 1 else ''} a step"
    source = f"{style.emulated_source(points.hardware, points.environment)}\n{note}"
    with style.page(path, title=title, source=source, inches=(11.0, 4.9)) as figure:
        if points.verdicts:
            drawn = [verdict for verdict in points.verdicts if verdict.counted or verdict.at_best]
            _draw_verdicts(figure, drawn)
        else:
            draw_longest(figure.add_subplot(), points.longest)


def _draw_verdicts(figure: Any, verdicts: Sequence[Verdict]) -> None:
    """A panel a model, a group a length, a bar a system."""
    models = list(dict.fromkeys((verdict.model, verdict.gpus) for verdict in verdicts))
    panels = figure.subplots(1, max(1, len(models)), sharey=True, squeeze=False)[0]
    for axes, (model, gpus) in zip(panels, models, strict=False):
        shown = [verdict for verdict in verdicts if (verdict.model, verdict.gpus) == (model, gpus)]
        capacity = next((v.capacity_bytes for v in shown if v.capacity_bytes), 0) / GIB
        if capacity:
            label = f"device memory, {format_bytes(round(capacity * GIB))}"
            axes.axhline(capacity, label=label, color=style.INK, linewidth=1, linestyle="--")
        for verdict, place, width in _placed(axes, shown, lambda verdict: verdict.seq):
            height = (verdict.peak_device_bytes or 0) / GIB
            label = _LABELS.get(verdict.rule_name, verdict.rule_name)
            pale = verdict.reading_words == AS_THE_PAPER_RAN
            look = style.bar(verdict.system, pale=pale)
            axes.bar(place, height, 0.9 * width, label=label, **look)
            above = (place, max(height, capacity) if height else 0)
            failed = verdict.agrees is False
            style.words(axes, _words(verdict), above, failed=failed, rotation=90, **_ABOVE)
        axes.set_title(f"{model}, {gpus} GPUs")
        axes.set_xlabel("tokens of a sequence")
        axes.margins(y=0.2)
    panels[0].set_ylabel("peak of the fullest role, GiB")


def _words(verdict: Verdict) -> str:
    """Nothing where a counted peak and the paper agree."""
    words = [f"paper: {verdict.paper_outcome or '-'}"] if verdict.agrees is False else []
    if verdict.peak_device_bytes is None:
        words.insert(0, "cannot run" if verdict.status == "unavailable" else verdict.status)
    return "; ".join(words)


def draw_longest(axes: Any, rows: Sequence[LongestVerdict]) -> None:
    """A group a number of GPUs; a system's bar and, hollow, the paper's beside."""
    for row, place, width in _placed(axes, rows, lambda row: f"{row.gpus} GPUs"):
        label = _LABELS.get(row.rule_name, row.rule_name)
        capped = bool(row.longest_tokens) and not row.beyond
        height = row.longest_tokens / MILLION
        left, right = place - width / 4, place + width / 4
        axes.bar(left, height, 0.45 * width, label=label, **style.bar(row.system))
        if capped:
            arrow = {"arrowstyle": "<-", "color": style.look(row.system).colour}
            offset = {"xytext": (0, 13), "textcoords": "offset points"}
            axes.annotate("", (left, height), arrowprops=arrow, **offset)
        _write_tokens(axes, left, row.longest_tokens, capped)
        if row.paper_tokens is None:
            continue
        hollow = style.bar(row.system, hollow=True)
        axes.bar(right, row.paper_tokens / MILLION, 0.45 * width, **hollow)
        _write_tokens(axes, right, row.paper_tokens, capped=False)
    axes.set_ylabel("million tokens (1M = 1,048,576)")
    axes.margins(y=0.12)


def _write_tokens(axes: Any, place: float, tokens: int, capped: bool) -> None:
    """Above a bar, or above its arrow."""
    words = f"{'≥ ' if capped else ''}{length_name(tokens)}" if tokens else "cannot run"
    above: dict[str, Any] = _ABOVE | {
        "xytext": (0, 14 if capped else 3),
        "rotation": 0 if tokens else 90,
    }
    style.words(axes, words, (place, tokens / MILLION), **above)


def _placed(
    axes: Any, rows: Sequence[Row], group: Callable[[Row], str]
) -> Iterator[tuple[Row, float, float]]:
    """Rows with the middle and the width of their bars, side by side in groups; names groups."""
    groups = group_by(rows, group)
    axes.set_xticks(range(len(groups)), groups)
    axes.set_xlim(-0.5, len(groups) - 0.5)
    width = 0.86 / max(3, *map(len, groups.values()))
    for number, members in enumerate(groups.values()):
        for index, row in enumerate(members):
            yield row, number + (index + 0.5 - len(members) / 2) * width, width
