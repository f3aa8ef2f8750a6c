"""`sppo-bench paper`: the paper's memory boundaries, emulated; saved after every verdict."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import msgspec

from benchmarks.commands import arguments
from benchmarks.commands.arguments import UsageError
from benchmarks.commands.output import show_json
from benchmarks.commands.studies.flags import Paper
from benchmarks.emulation import cache
from benchmarks.emulation.emulator import Emulator
from benchmarks.emulation.search import STEP_TOKENS
from benchmarks.environment import describe_environment
from benchmarks.launch.run import new_directory
from benchmarks.paper import boundaries, boundaries_figure, boundaries_report, reported
from benchmarks.paper.boundaries import PaperPoints
from benchmarks.paper.readings import READINGS, Reading
from benchmarks.paper.reported import ReportedPoint
from benchmarks.records import store
from benchmarks.studies import publish
from sppo.config.errors import NotBuilt
from sppo.config.workload import Workload

FIGURES = ("10", "12")


def paper(verb: Paper) -> int:
    """The exit code: 1 where a role failed or a search was not answered. Raises UsageError."""
    figures = _chosen(verb.figures, FIGURES, "--figures")
    readings = _readings(verb)
    points = [point for point in reported.points() if point.model in _models(verb)]
    if verb.sequences_per_step < 1 or verb.time_limit <= 0:
        raise UsageError("--sequences-per-step and --time-limit must be positive")
    if verb.publish and (verb.models or verb.systems):
        raise UsageError(
            "--publish: only whole figures are published; leave --models, --systems out"
        )
    try:
        workload = boundaries.workload_of(points[0], verb.sequences_per_step)
        directory = _directory(verb, workload)
        done = [_figure(number, verb, readings, points, directory) for number in figures]
    except (ValueError, NotBuilt, OSError) as error:
        raise UsageError(error) from None
    if verb.json:
        show_json([msgspec.to_builtins(found) for found in done])
    else:
        print("\n\n".join(boundaries_report.text(found) for found in done))
    print(f"saved to {directory}", file=sys.stderr)
    broken = any(_broken(found) for found in done)
    if verb.publish and not broken:
        for number in figures:
            name = f"fig{number}-{verb.sequences_per_step}-sequences"
            publish.publish(directory, f"fig{number}", "emulation", name)
    return 1 if broken else 0


def _broken(found: PaperPoints) -> bool:
    failed = any(one.status in ("failed", "timeout") for one in found.verdicts)
    return failed or any(one.unanswered for one in found.longest)


def _figure(
    number: str,
    verb: Paper,
    readings: Sequence[Reading],
    points: Sequence[ReportedPoint],
    directory: Path,
) -> PaperPoints:
    """One of the figures, its file written anew behind every row."""
    emulator = Emulator(
        parent=directory,
        time_limit_seconds=verb.time_limit,
        cache=None if verb.again else cache.default_cache(),
    )
    count = verb.sequences_per_step
    found = PaperPoints(
        hardware=reported.ABLATION_HARDWARE,
        sequences_per_step=count,
        rules=boundaries.rules(readings),
        step_tokens=STEP_TOKENS,
        verdicts=[],
        longest=[],
        environment=describe_environment(),
    )

    def save() -> None:
        store.write_bytes(directory / f"fig{number}.json", store.to_json(found))

    if number == "10":
        for verdict in boundaries.verdicts(readings, points, emulator, count):
            found.verdicts.append(verdict)
            save()
    else:
        gpus = reported.longest_gpus()
        for row in boundaries.longest_rows(readings, gpus, emulator, count):
            found.longest.append(row)
            save()
    publish.write(directory, f"fig{number}", {"md": boundaries_report.text(found) + "\n"})
    boundaries_figure.draw(found, directory / f"fig{number}.png")
    return found


def _directory(verb: Paper, workload: Workload) -> Path:
    parent = verb.output or store.results_directory() / "runs"
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
    asked = arguments.names(given)
    unknown = [one for one in asked if one not in known]
    if unknown:
        raise UsageError(f"{name} {', '.join(unknown)}: known are {', '.join(known)}")
    return [one for one in known if one in asked] or list(known)
