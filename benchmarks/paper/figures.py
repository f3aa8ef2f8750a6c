"""The paper's figures 1, 10 and 12, emulated. The JSON is saved anew after every row."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from benchmarks.emulation.search import STEP_TOKENS
from benchmarks.environment import describe_environment
from benchmarks.paper import boundaries_figure, boundaries_report, reported
from benchmarks.paper.boundaries import PaperComparison
from benchmarks.paper.verdicts import LongestVerdict, PaperPoints, Verdict
from benchmarks.records import store

FIGURES = ("1", "10", "12")


OnRow = Callable[[Verdict | LongestVerdict], None]


def emulate_figure(
    number: str, comparison: PaperComparison, on_row: OnRow | None = None
) -> PaperPoints:
    """One of FIGURES, as JSON, table and figure in the emulator's folder.

    on_row: gets every row at once, after it is saved.

    Raises ValueError, NotSupported or OSError.
    """
    figure = PaperPoints(
        figure=number,
        hardware=reported.ABLATION_HARDWARE,
        sequences_per_step=comparison.sequences_per_step,
        rules={rule.name: rule.rule for rule in comparison.rules},
        step_tokens=STEP_TOKENS,
        verdicts=[],
        longest=[],
        environment=describe_environment(),
    )
    if number == "1":
        comparison = replace(comparison, points=reported.large_points(), all_rows=True)
    results: list[Any] = figure.longest if number == "12" else figure.verdicts
    rows: Any = comparison.longest() if number == "12" else comparison.verdicts()
    path = comparison.emulator.parent / f"fig{number}.json"
    for row in rows:
        results.append(row)
        store.write_bytes(path, store.to_json(figure))
        if on_row is not None:
            on_row(row)
    text = boundaries_report.text(figure) + "\n"
    store.write_bytes(path.with_suffix(".md"), text.encode())
    boundaries_figure.draw(figure, path.with_suffix(".png"))
    return figure
