"""The newest commit's metrics in the formats of other tools.

github-action-benchmark: `customSmallerIsBetter` and `customBiggerIsBetter`, an array of name, unit
and value (README and `src/extract.ts` of github.com/benchmark-action/github-action-benchmark).
Bencher: Bencher Metric Format, measures by benchmark (bencher.dev/bmf.json); names have at most
1,024 characters, measures at most 64; the built-in measure `latency` is in nanoseconds.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from benchmarks.regression.history.series import Point, Series

NANOSECONDS = 1e9
MOST_NAME, MOST_MEASURE = 1024, 64


class ActionResult(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An entry of github-action-benchmark. range: half of the interval, after "± "."""

    name: str
    unit: str
    value: int | float
    range: str | None = None
    extra: str | None = None


class BencherMetric(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A metric of Bencher: the value and, where they are known, both ends of its interval."""

    value: int | float
    lower_value: int | float | None = None
    upper_value: int | float | None = None


def newest_points(all_series: Sequence[Series]) -> list[Point]:
    """The newest point of each series that belongs to the newest commit and is not void.

    Raises ValueError without one, and for several machines.
    """
    machines = sorted({series.machine for series in all_series})
    if len(machines) > 1:
        raise ValueError(f"{len(machines)} machines: name one by --machine: {', '.join(machines)}")
    judged = [point for series in all_series for point in series.segments[-1].judged]
    if not judged:
        raise ValueError("no run that is not void: nothing to export")
    newest = max(judged, key=lambda point: point.entry.order).entry
    points = {}
    for point in judged:
        if (point.entry.commit, point.entry.dirty) == (newest.commit, newest.dirty):
            points[point.metric.name] = point
    return list(points.values())


def action_results(points: Sequence[Point]) -> list[ActionResult]:
    """Metrics of one direction. Raises ValueError without one: the action refuses an empty file."""
    if not points:
        raise ValueError("no metric of this direction: give the other one by --better")
    return [_action_result(point) for point in points]


def _action_result(point: Point) -> ActionResult:
    metric = point.metric
    spread = None
    if metric.low is not None and metric.high is not None:
        spread = f"± {(metric.high - metric.low) / 2:.4g}"
    facts = [metric.setting, f"commit {point.entry.commit_name}", point.entry.machine.id]
    return ActionResult(
        name=metric.name,
        unit=metric.unit,
        value=metric.value,
        range=spread,
        extra="\n".join(filter(None, facts)),
    )


def bencher_metrics(points: Sequence[Point]) -> dict[str, dict[str, BencherMetric]]:
    """Bencher Metric Format: by benchmark and measure. Times become `latency` in nanoseconds."""
    benchmarks: dict[str, dict[str, BencherMetric]] = {}
    for point in points:
        benchmark, _, quantity = point.metric.name.rpartition("/")
        is_time = point.metric.unit == "s"
        measure = "latency" if is_time else quantity.replace("_", "-")[:MOST_MEASURE]
        scale = NANOSECONDS if is_time else 1
        measures = benchmarks.setdefault((benchmark or quantity)[:MOST_NAME], {})
        measures[measure] = BencherMetric(
            value=point.metric.value * scale,
            lower_value=_scaled(point.metric.low, scale),
            upper_value=_scaled(point.metric.high, scale),
        )
    return benchmarks


def _scaled(value: float | None, scale: float) -> float | None:
    return None if value is None else value * scale
