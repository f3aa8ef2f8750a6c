"""The actions of `sppo-bench history`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from benchmarks.commands.arguments import UsageError, usage_errors
from benchmarks.records.store import to_json, write_bytes
from benchmarks.regression.exit_codes import NOT_WORSE, WORSE
from benchmarks.regression.history import export, report, store
from benchmarks.regression.history.figure import draw, most_relevant
from benchmarks.regression.history.series import Series, all_series, regressions
from benchmarks.regression.history.sources import entries_of
from benchmarks.regression.history.store import default_directory


@dataclass(frozen=True, kw_only=True)
class Folder:
    """The folder of the history."""

    history: Annotated[Path | None, arg(metavar="DIR")] = None
    """Folder of the history; results/history/ if not given."""

    @property
    def directory(self) -> Path:
        """The given folder, or that of the results."""
        return self.history or default_directory()


@dataclass(frozen=True, kw_only=True)
class Add(Folder):
    """Add runs: a line of JSON for each run and machine. A run that is there is not added twice.

    Example: sppo-bench history add results/runs/20261124-072759-tiny-cpu perf.json
    """

    sources: Annotated[Positional[tuple[Path, ...]], arg(metavar="SOURCE")]
    """Folders of `sppo-bench run`, JSON of `sppo-bench check` or of `tox -e perf`."""

    def run(self) -> int:
        """Add all sources, or none where one is wrong; the exit code.

        Raises UsageError, or OSError on a full disk.
        """
        if not self.sources:
            raise UsageError("name a SOURCE to add: a folder of `sppo-bench run` or a JSON file")
        with usage_errors(OSError):
            entries = [entry for source in self.sources for entry in entries_of(source)]
            self.directory.mkdir(parents=True, exist_ok=True)
        for entry in entries:
            path = store.append(self.directory, entry)
            words = f"{entry.source}, {entry.commit_name}: {len(entry.metrics)} metrics"
            void = f", void: {entry.void}" if entry.void else ""
            print(f"{words}{void}: {f'added to {path}' if path else 'known, not added'}")
        return 0


@dataclass(frozen=True, kw_only=True)
class Chosen(Folder):
    """Series of the history, all if nothing is named."""

    metric: Annotated[str | None, arg(metavar="NAME")] = None
    """Metrics whose name contains this, as /sppo/step_seconds; all if not given."""
    machine: Annotated[str | None, arg(metavar="ID")] = None
    """The machine, by its id or how that begins; all if not given."""

    def chosen(self) -> list[Series]:
        """The chosen series. Lines that cannot be read are said. Raises UsageError for none."""
        with usage_errors(OSError):
            entries, unreadable = store.read(self.directory)
        for line in unreadable:
            print(line, file=sys.stderr)
        if not entries:
            raise UsageError(
                f"{self.directory}: no runs in it; add one by `sppo-bench history add`"
            )
        machines = [series for series in all_series(entries) if self._on_machine(series)]
        if not machines:
            known = ", ".join(sorted({entry.machine.id for entry in entries}))
            raise UsageError(f"no machine {self.machine!r}; known: {known}")
        series = [series for series in machines if (self.metric or "") in series.name]
        if not series:
            raise UsageError(f"no metric with {self.metric!r}; known: {_names(machines)}")
        return series

    def _on_machine(self, series: Series) -> bool:
        return series.machine.startswith(self.machine or "")


@dataclass(frozen=True, kw_only=True)
class Show(Chosen):
    """Print a line for each series, and the points of a single one. Exit code 1 where the newest
    point confirms a regression, also where the figure cannot be written.

    Example: sppo-bench history show --metric /sppo/step_seconds --png history.png
    """

    png: Annotated[Path | None, arg(metavar="FILE")] = None
    """Draw the series, a panel each, into this file; of many series the twelve that matter most."""

    def run(self) -> int:
        """Show the series; the exit code. Raises UsageError where no series regressed."""
        chosen = self.chosen()
        print(report.summary_table(chosen))
        if len(chosen) == 1:
            print(f"\n{report.point_table(chosen[0])}")
        worse = regressions(chosen)
        for series in worse:
            print(f"regression: {series.name}: {report.verdict(series)}", file=sys.stderr)
        if self.png is not None:
            try:
                _draw(chosen, self.png)
            except UsageError as error:
                if not worse:
                    raise
                print(f"error: {error}", file=sys.stderr)
        return WORSE if worse else NOT_WORSE


def _draw(chosen: Sequence[Series], path: Path) -> None:
    """Draw the series that matter most, and say how many are left out. Raises UsageError."""
    drawn = most_relevant(chosen)
    with usage_errors(OSError):
        draw(drawn, path)
    if len(drawn) < len(chosen):
        words = f"{path}: {len(drawn)} of {len(chosen)} series; choose with --metric or --machine"
        print(words, file=sys.stderr)


@dataclass(frozen=True, kw_only=True)
class Export(Chosen):
    """Write the metrics of the newest commit for another tool.

    Example: sppo-bench history export --format bencher bencher.json
    """

    file: Annotated[Positional[Path], arg(metavar="FILE")]
    """The file to write."""
    format: Literal["github-action-benchmark", "bencher"]
    """github-action-benchmark (customSmallerIsBetter, or with --better more customBiggerIsBetter)
    or bencher (Bencher Metric Format)."""
    better: Literal["less", "more"] = "less"
    """github-action-benchmark has a file for each direction: metrics where less, or more, is
    better."""

    def run(self) -> int:
        """Write the file; the exit code. Raises UsageError."""
        if self.format == "bencher" and self.better != "less":
            raise UsageError("leave --better out: Bencher's format has both directions in one file")
        with usage_errors(OSError):
            points = export.newest_points(self.chosen())
            if self.format == "bencher":
                write_bytes(self.file, to_json(export.bencher_metrics(points)))
            else:
                points = [point for point in points if point.metric.better == self.better]
                write_bytes(self.file, to_json(export.action_results(points)))
        print(f"{len(points)} metrics of {points[0].entry.commit_name}: {self.file}")
        return 0


def _names(all_series: Sequence[Series]) -> str:
    return ", ".join(sorted({series.name for series in all_series}))
