"""The paper's figures 10 and 12, emulated: each is written anew after every row."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from benchmarks.emulation.emulator import Emulator
from benchmarks.emulation.search import STEP_TOKENS
from benchmarks.environment import describe_environment
from benchmarks.paper import boundaries, boundaries_figure, boundaries_report, reported
from benchmarks.paper.boundaries import PaperPoints
from benchmarks.paper.readings import Reading
from benchmarks.paper.reported import ReportedPoint
from benchmarks.records import store
from benchmarks.studies import publish

FIGURES = ("10", "12")


def emulate_figure(
    number: str,
    readings: Sequence[Reading],
    points: Sequence[ReportedPoint],
    emulator: Emulator,
    sequences_per_step: int,
) -> PaperPoints:
    """One of FIGURES, as JSON, table and figure in the emulator's folder.

    Raises ValueError, NotBuilt or OSError.
    """
    directory = emulator.parent
    figure = PaperPoints(
        hardware=reported.ABLATION_HARDWARE,
        sequences_per_step=sequences_per_step,
        rules=boundaries.rules(readings),
        step_tokens=STEP_TOKENS,
        verdicts=[],
        longest=[],
        environment=describe_environment(),
    )

    if number == "10":
        for verdict in boundaries.verdicts(readings, points, emulator, sequences_per_step):
            figure.verdicts.append(verdict)
            _save(figure, directory, number)
    else:
        gpus = reported.longest_gpus()
        for row in boundaries.longest_rows(readings, gpus, emulator, sequences_per_step):
            figure.longest.append(row)
            _save(figure, directory, number)
    publish.write(directory, f"fig{number}", {"md": boundaries_report.text(figure) + "\n"})
    boundaries_figure.draw(figure, directory / f"fig{number}.png")
    return figure


def is_broken(figure: PaperPoints) -> bool:
    """Whether a role failed or a search was not answered."""
    failed = any(verdict.status in ("failed", "timeout") for verdict in figure.verdicts)
    return failed or any(row.unanswered for row in figure.longest)


def _save(figure: PaperPoints, directory: Path, number: str) -> None:
    store.write_bytes(directory / f"fig{number}.json", store.to_json(figure))
