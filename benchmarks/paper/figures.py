"""The paper's figures 10 and 12, emulated. The JSON is saved anew after every row."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from benchmarks.emulation.emulator import Emulator
from benchmarks.emulation.search import STEP_TOKENS
from benchmarks.environment import describe_environment
from benchmarks.paper import boundaries, boundaries_figure, boundaries_report, reported
from benchmarks.paper.boundaries import PaperPoints
from benchmarks.paper.layout_rules import LayoutRule
from benchmarks.paper.reported import ReportedPoint
from benchmarks.records import store

FIGURES = ("10", "12")


def emulate_figure(
    number: str,
    rules: Sequence[LayoutRule],
    points: Sequence[ReportedPoint],
    emulator: Emulator,
    sequences_per_step: int,
) -> PaperPoints:
    """One of FIGURES, as JSON, table and figure in the emulator's folder.

    Raises ValueError, NotBuilt or OSError.
    """
    figure = PaperPoints(
        hardware=reported.ABLATION_HARDWARE,
        sequences_per_step=sequences_per_step,
        rules={rule.name: rule.rule for rule in rules},
        step_tokens=STEP_TOKENS,
        verdicts=[],
        longest=[],
        environment=describe_environment(),
    )
    results: list[Any] = figure.verdicts
    rows: Any = boundaries.verdicts(rules, points, emulator, sequences_per_step)
    if number == "12":
        gpus = reported.longest_gpus()
        results = figure.longest
        rows = boundaries.longest_verdicts(rules, gpus, emulator, sequences_per_step)
    path = emulator.parent / f"fig{number}.json"
    for row in rows:
        results.append(row)
        store.write_bytes(path, store.to_json(figure))
    text = boundaries_report.text(figure) + "\n"
    store.write_bytes(path.with_suffix(".md"), text.encode())
    boundaries_figure.draw(figure, path.with_suffix(".png"))
    return figure
