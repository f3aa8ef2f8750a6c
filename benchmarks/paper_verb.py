"""`sppo-bench paper`: the paper's memory boundaries, emulated; saved after every verdict."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import msgspec

from benchmarks import (
    emulation_cache,
    paper_figure,
    paper_points,
    paper_report,
    records,
    reported,
    study,
)
from benchmarks.emulation_search import STEP_TOKENS
from benchmarks.emulator import Emulator
from benchmarks.environment import describe_environment
from benchmarks.paper_points import Longest, PaperPoints
from benchmarks.paper_readings import READINGS, Reading
from benchmarks.selection import UsageError
from benchmarks.study_flags import Paper
from benchmarks.supervisor import new_directory
from sppo.errors import NotBuilt
from sppo.workload import Workload

FIGURES = ("10", "12")


def paper(verb: Paper) -> int:
    """The exit code: 1 where a role failed. Raises UsageError."""
    figures = _chosen(verb.figures, FIGURES, "--figures")
    readings = _readings(verb)
    points = [point for point in reported.points() if point.model in _models(verb)]
    if verb.sequences_per_step < 1 or verb.time_limit <= 0:
        raise UsageError("--sequences-per-step and --time-limit must be positive")
    try:
        workload = paper_points.workload_of(points[0], verb.sequences_per_step)
        directory = _directory(verb, workload)
        found = _run(verb, figures, readings, points, directory)
    except (ValueError, NotBuilt, OSError) as error:
        raise UsageError(error) from None
    _finish(found, directory)
    if verb.publish:
        name = f"paper-{found.sequences_per_step}-sequences"
        study.publish(directory, "paper", "emulation", name)
    print(records.to_json(found).decode() if verb.json else paper_report.text(found), end="\n")
    print(f"saved to {directory}", file=sys.stderr)
    broken = [one for one in found.verdicts if one.status in ("failed", "timeout")]
    return 1 if broken else 0


def _run(
    verb: Paper,
    figures: Sequence[str],
    readings: Sequence[Reading],
    points: Sequence[reported.ReportedPoint],
    directory: Path,
) -> PaperPoints:
    """Verdict after verdict, the file written anew behind each."""
    emulator = Emulator(
        parent=directory,
        time_limit_seconds=verb.time_limit,
        cache=None if verb.again else emulation_cache.default_cache(),
        hasty=True,
    )
    count = verb.sequences_per_step
    found = PaperPoints(
        hardware=reported.ABLATION_HARDWARE,
        sequences_per_step=count,
        rules=paper_points.rules(readings),
        step_tokens=STEP_TOKENS,
        verdicts=[],
        longest=[],
        environment=describe_environment(),
    )
    if "10" in figures:
        for verdict in paper_points.verdicts(readings, points, emulator, count):
            found.verdicts.append(verdict)
            _save(found, directory)
    if "12" in figures:
        for row in _longest(readings, emulator, count):
            found.longest.append(row)
            _save(found, directory)
    return found


def _longest(readings: Sequence[Reading], emulator: Emulator, count: int) -> Iterator[Longest]:
    gpus = reported.longest_gpus()
    return paper_points.longest(readings, gpus, emulator, count)


def _save(found: PaperPoints, directory: Path) -> None:
    records.write_bytes(directory / "paper.json", records.to_json(found))


def _finish(found: PaperPoints, directory: Path) -> None:
    study.write(directory, "paper", {"md": paper_report.document(found)})
    paper_figure.draw(found, directory / "paper.png")


def _directory(verb: Paper, workload: Workload) -> Path:
    parent = verb.output or records.results_directory() / "runs"
    return new_directory(parent, replace(workload, name="paper"))


def _models(verb: Paper) -> list[str]:
    known = list(dict.fromkeys(point.model for point in reported.points()))
    return _chosen(verb.models, known, "--models")


def _readings(verb: Paper) -> list[Reading]:
    known = sorted({reading.system for reading in READINGS})
    asked = _chosen(verb.systems, known, "--systems")
    return [reading for reading in READINGS if reading.system in asked]


def _chosen(given: tuple[str, ...], known: Sequence[str], name: str) -> list[str]:
    """Those of the known that were asked for, all if none was. Raises UsageError."""
    asked = study.names(given)
    unknown = [one for one in asked if one not in known]
    if unknown:
        raise UsageError(f"{name} {', '.join(unknown)}: known are {', '.join(known)}")
    return [one for one in known if one in asked] or list(known)


def load(path: Path) -> PaperPoints:
    """A published file. Raises RecordError."""
    data = path.read_bytes()
    records.check_schema(path, data, paper_points.SCHEMA)
    return msgspec.json.decode(data, type=PaperPoints)
