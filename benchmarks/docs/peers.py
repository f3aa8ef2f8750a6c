"""Tables of docs/peers.md: all rows at a point of fig. 1, and the fastest points of grids."""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.docs.markdown import NOTHING, Columns, factor, gib, mib, table
from benchmarks.docs.published import origin, read
from benchmarks.paper import speeds
from benchmarks.paper.items import published
from benchmarks.paper.verdicts import AT_BEST, Verdict
from benchmarks.reporting.style import limit_words
from benchmarks.rows import tuning
from sppo.config.sizes import MIB

SEQUENCES = 1

WORKLOAD = "tiny-cpu"
LIMITS_BYTES = (136 * MIB, None)


def large_point(gpus: int) -> str:
    """Peaks, simulated steps and ratios of all rows on so many GPUs, the fastest first."""
    emulated = published.read("1", SEQUENCES)
    if emulated is None:
        raise ValueError(published.missing("1", SEQUENCES))
    verdicts = [verdict for verdict in emulated.verdicts if verdict.gpus == gpus]
    (sppo,) = speeds.sppo_steps(verdicts).values()
    columns: Columns = {
        "row": lambda verdict: verdict.rule_name.removesuffix(f", {AT_BEST}"),
        "reading": lambda verdict: verdict.reading_words,
        "settings": lambda verdict: verdict.settings_text,
        "device peak": lambda verdict: gib(verdict.peak_device_bytes),
        "step, exposed": lambda verdict: _seconds(verdict, verdict.step_seconds),
        "step, hidden": lambda verdict: _seconds(verdict, verdict.step_seconds_if_hidden),
        "SPPO faster by, exposed": lambda verdict: factor(speeds.exposed_ratio(verdict, sppo)),
        "hidden": lambda verdict: factor(speeds.hidden_ratio(verdict, sppo)),
        "without idle time": lambda verdict: factor(speeds.bubble_free_ratio(verdict, sppo)),
    }
    name = published.name("1", SEQUENCES)
    return table(columns, sorted(verdicts, key=_order)) + origin(read(name))


def _order(verdict: Verdict) -> tuple[bool, float]:
    """By step; rows without a step that fits stand last."""
    if not speeds.has_step(verdict):
        return True, 0.0
    return False, verdict.step_seconds or 0.0


def _seconds(verdict: Verdict, seconds: float | None) -> str:
    if verdict.status == "unavailable":
        return "cannot run"
    if verdict.status != "ok":
        return verdict.status
    return NOTHING if seconds is None else f"{seconds:,.1f} s"


@dataclass(frozen=True, kw_only=True)
class Fastest:
    """The fastest point of a system's grid under a limit."""

    device_memory_bytes: int | None
    system: str
    grid: tuple[tuning.GridPoint, ...]
    point: tuning.GridPoint
    origin: str


def measured_grids() -> str:
    """Points of the grids of tiny-cpu, how many ran, and the fastest. Raises ValueError."""
    rows = [row for limit_bytes in LIMITS_BYTES for row in _fastest(limit_bytes)]
    columns: Columns = {
        "limit": lambda row: limit_words(row.device_memory_bytes),
        "system": lambda row: f"`{row.system}`",
        "points": lambda row: str(len(row.grid)),
        "that ran": lambda row: str(sum(point.status == "ok" for point in row.grid)),
        "fastest": lambda row: row.point.settings_text,
        "step, s": _grid_seconds,
        "tracked peak": lambda row: mib(row.point.tracked_peak_bytes),
    }
    origins = "; ".join(dict.fromkeys(row.origin for row in rows))
    return f"{table(columns, rows)}\n\nMeasured: {origins}."


def _fastest(limit_bytes: int | None) -> list[Fastest]:
    path = tuning.path_of(WORKLOAD, limit_bytes)
    grids = tuning.load(path)
    if grids is None:
        raise ValueError(f"{path.name} is not there: measure with `run {WORKLOAD} --tune`")
    rows = []
    for system, grid in grids.systems.items():
        point = tuning.fastest(grid.points)
        assert point is not None, f"{system}: no point ran"
        rows.append(
            Fastest(
                device_memory_bytes=limit_bytes,
                system=system,
                grid=tuple(grid.points),
                point=point,
                origin=grid.origin,
            )
        )
    return sorted(rows, key=lambda row: row.point.step_seconds_median or 0.0)


def _grid_seconds(row: Fastest) -> str:
    seconds = row.point.step_seconds_median
    return NOTHING if seconds is None else f"{seconds:.3f}"
