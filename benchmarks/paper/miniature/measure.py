"""One place of a figure measured: inputs, launches, equal work, and the ratios of its rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import combinations
from pathlib import Path

from benchmarks.launch import preparing, run
from benchmarks.launch.options import Options
from benchmarks.launch.progress import Display
from benchmarks.launch.recording import Inputs
from benchmarks.paper.miniature import settings
from benchmarks.paper.miniature.places import AT_MOST_FACTOR, MOST_SETTINGS, Place
from benchmarks.paper.miniature.result import (
    LaunchTimes,
    LongestPlace,
    MeasuredPlace,
    MeasuredRatio,
    MeasuredRow,
)
from benchmarks.records.claim import claim
from benchmarks.records.provenance import is_crowded
from benchmarks.records.record import Record, grouped
from benchmarks.records.timing import Timing, timings
from benchmarks.reporting.tables import Summary, summaries
from benchmarks.rows.candidates import Candidates
from benchmarks.rows.fallback import Fallback
from benchmarks.rows.row import Configuration, Row
from benchmarks.studies import longest
from benchmarks.studies.sweep import fastest_of_each, points_of
from sppo.config.workload import Workload


def measure_place(
    place: Place, directory: Path, options: Options, display: Display
) -> tuple[MeasuredPlace | LongestPlace, list[Record]]:
    """Launch all rows of a place, in a folder of `directory`: the result and the judged records.

    Launches that the folder already has are read. Raises ValueError or OSError before the first
    launch.
    """
    folder = directory / place.folder
    folder.mkdir(exist_ok=True)
    options = place.options(options)
    if place.figure == "12":
        return _longest(place, folder, options, display)
    inputs = preparing.prepare(place.workload, options, folder)
    try:
        if place.figure == "10":
            rows, done = _by_system(place, inputs, options, display)
        else:
            configurations = _PLANNED[place.figure](place.workload)
            done = run.run(inputs, configurations, options, display)
            rows = list(_summaries(done))
    finally:
        preparing.remove_inputs(inputs)
    return measured_place(place, rows, done), done


_PLANNED: dict[str, Callable[[Workload], list[Configuration]]] = {
    "7": settings.by_count,
    "11": settings.by_variant,
}

NamedSummary = tuple[str, Summary]
"""The label under which a row was launched, and its summary under the row's own name."""


def _summaries(done: Sequence[Record]) -> Iterator[NamedSummary]:
    for summary in summaries(done):
        yield summary.row, summary


def _by_system(
    place: Place, inputs: Inputs, options: Options, display: Display
) -> tuple[list[NamedSummary], list[Record]]:
    known: dict[str, Candidates] = {}
    configurations = list(settings.by_system(place, inputs, options, display, known))
    fallback = Fallback(
        workload=place.workload,
        own_sequences=place.base.sequences_per_step,
        candidates_by_system=known,
    )
    done = run.run(
        inputs, configurations, options, display, narrow=fastest_of_each, instead=fallback
    )
    return [_best(done, row) for row in settings.rows()], done


def _best(done: Sequence[Record], row: Row) -> NamedSummary:
    """The best point of a tuned row, under the row's own name."""
    point = points_of(done, row)[0]
    return point.row, replace(point, row=row.label)


def measured_place(
    place: Place, rows: Sequence[NamedSummary], done: Sequence[Record]
) -> MeasuredPlace:
    """The rows with their launches, and the ratio of every two.

    rows: the label of the launches, and the summary under the name that the result has.
    """
    judged, launches = timings(done), grouped(done, "row")
    return MeasuredPlace(
        place=place.name,
        folder=place.folder,
        workload=place.workload.name,
        sequence_tokens=place.workload.sequence_tokens,
        sequences_per_step=place.workload.sequences_per_step,
        ranks=place.workload.cluster.ranks,
        device_memory_bytes=place.workload.device_memory_bytes,
        rows=[
            MeasuredRow(summary=summary, launches=_times(launches[label], judged[label]))
            for label, summary in rows
        ],
        ratios=list(_ratios(rows, done)),
    )


def _times(launches: Sequence[Record], timing: Timing) -> list[LaunchTimes]:
    return [
        LaunchTimes(
            launch=record.launch,
            step_seconds=record.step_seconds_median,
            bubble_share=record.bubble_share,
        )
        for record in launches
        if record.launch in timing.used and record.step_seconds_median is not None
    ]


def _ratios(rows: Sequence[NamedSummary], done: Sequence[Record]) -> Iterator[MeasuredRatio]:
    """Of every two rows with times, the later in the table over the earlier."""
    judged, launches = timings(done), grouped(done, "row")
    timed = [(label, summary) for label, summary in rows if summary.step_seconds is not None]
    if any(is_crowded(record) for record in done):
        return
    for (over, first), (label, second) in combinations(timed, 2):
        claimed = claim(launches[over], launches[label], judged)
        yield MeasuredRatio(
            row=second.row,
            over=first.row,
            ratio=claimed.ratio,
            low=claimed.low,
            high=claimed.high,
            reason=claimed.reason,
        )


def _longest(
    place: Place, folder: Path, options: Options, display: Display
) -> tuple[LongestPlace, list[Record]]:
    limit = place.workload.device_memory_bytes
    assert limit is not None, "the caller has checked it"
    at_most = AT_MOST_FACTOR * place.base.sequence_tokens
    found, done = longest.search(
        place.workload,
        settings.rows(),
        folder,
        replace(options, launches=1, warmup_steps=0, measured_steps=0),
        display,
        at_most,
        MOST_SETTINGS,
    )
    result = LongestPlace(
        place=place.name,
        folder=place.folder,
        workload=place.workload.name,
        ranks=place.workload.cluster.ranks,
        device_memory_bytes=limit,
        step_tokens=found.step_tokens,
        at_most_tokens=at_most,
        rows=found.rows,
        trials=found.trials,
    )
    return result, done
