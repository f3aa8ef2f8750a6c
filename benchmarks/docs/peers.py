"""Tables of docs/peers.md: all rows at a point of fig. 1, and the fastest points of grids."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from benchmarks.docs.markdown import NOTHING, Columns, factor, gib, mib, table
from benchmarks.docs.published import origin, read
from benchmarks.paper import reported, speeds
from benchmarks.paper.items import published, sppo_steps
from benchmarks.paper.verdicts import AS_THE_PAPER_RAN, AT_BEST, Verdict
from benchmarks.records.record import group_by
from benchmarks.reporting.style import limit_words
from benchmarks.rows import emulated_choices, tuning
from benchmarks.rows.assign import grid_assignments
from benchmarks.workloads import WORKLOADS
from sppo.config.sizes import MIB
from sppo.config.workload import Workload

SEQUENCES = 1

PEERS = {"deepspeed": "DeepSpeed", "megatron": "Megatron", "native": "PyTorch native"}
"""Systems beside SPPO, by the words of their columns."""

Point = tuple[str, str, int]
"""Model, length and number of GPUs."""

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


@dataclass(frozen=True, kw_only=True)
class PointSteps:
    """A point of table 4: SPPO's step, and the answers for the peers by system, in seconds.

    A peer without a step is None; `refused` has those whose library refuses the whole grid.
    """

    name: str
    plan: str
    seconds: float
    peers: dict[str, float | None]
    refused: frozenset[str]

    @property
    def best(self) -> tuple[str, float] | None:
        """The fastest peer and its step; None before any has one."""
        known = [(seconds, system) for system, seconds in self.peers.items() if seconds is not None]
        if not known:
            return None
        seconds, system = min(known)
        return system, seconds

    @property
    def is_whole(self) -> bool:
        """Whether every peer has a step, or cannot run."""
        return all(
            seconds is not None or system in self.refused for system, seconds in self.peers.items()
        )


def paper_points() -> str:
    """Simulated steps of SPPO's plans and of peers at their best, at the points of table 4."""
    rows = [
        _point_steps(workload)
        for workload in WORKLOADS.values()
        if (point := reported.find_point(workload)) is not None and point.is_in_table_4
    ]
    peers: Columns = {label: partial(_peer_step, system) for system, label in PEERS.items()}
    columns: Columns = {
        "point": lambda row: f"`{row.name}`",
        "SPPO's plan": lambda row: row.plan,
        "SPPO": lambda row: f"{row.seconds:,.2f} s",
        **peers,
        "best peer": lambda row: PEERS[row.best[0]] if row.best else NOTHING,
        "SPPO faster by": _against_best,
    }
    return table(columns, rows)


def _point_steps(workload: Workload) -> PointSteps:
    plan = sppo_steps.own_plan(workload.name)
    peers = {}
    for system in PEERS:
        found = emulated_choices.choice_for(system, workload)
        is_equal = found and found[0].workload.sequences_per_step == workload.sequences_per_step
        peers[system] = found[0].step_seconds if found and is_equal else None
    return PointSteps(
        name=workload.name,
        plan=plan.settings,
        seconds=plan.seconds,
        peers=peers,
        refused=frozenset(
            system
            for system, seconds in peers.items()
            if seconds is None and _refuses_all(system, workload)
        ),
    )


def _refuses_all(system: str, workload: Workload) -> bool:
    return all(point.status for point in grid_assignments(system, workload))


def _peer_step(system: str, row: PointSteps) -> str:
    seconds = row.peers[system]
    if seconds is not None:
        return f"{seconds:,.2f} s"
    return "cannot run" if system in row.refused else "not searched"


def _against_best(row: PointSteps) -> str:
    """The ratio; an upper bound while a peer is not searched."""
    if row.best is None:
        return NOTHING
    bound = "" if row.is_whole else "at most "
    return f"{bound}{row.best[1] / row.seconds:.3f}x"


def as_the_paper_ran_them() -> str:
    """How much faster SPPO is than each row "as the paper ran it", at the points of table 4."""
    emulated = published.read("10", SEQUENCES)
    if emulated is None:
        raise ValueError(published.missing("10", SEQUENCES))
    sppo = speeds.sppo_steps(emulated.verdicts)
    rows = group_by(emulated.verdicts, speeds.point_of)
    shown = [verdict for verdict in emulated.verdicts if verdict.reading_words == AS_THE_PAPER_RAN]
    names = list(dict.fromkeys(verdict.rule_name for verdict in shown))
    columns: Columns = {
        "point": lambda point: f"{point[0]}, {point[1]}, {point[2]} GPUs",
        "SPPO, counted peak": lambda point: gib(sppo[point].peak_device_bytes),
        "SPPO's step": lambda point: _seconds(sppo[point], sppo[point].step_seconds),
        **{name: partial(_ratios_of, name, rows, sppo) for name in names},
    }
    name = published.name("10", SEQUENCES)
    return table(columns, sppo) + origin(read(name))


def _ratios_of(
    name: str,
    rows: Mapping[Point, Sequence[Verdict]],
    sppo: Mapping[Point, Verdict],
    point: Point,
) -> str:
    """ "2.10x, 1.21x without idle time", how the row ends, or nothing."""
    found = next((row for row in rows[point] if row.rule_name == name and not row.at_best), None)
    if found is None:
        return NOTHING
    if not speeds.has_step(found):
        return _seconds(found, None)
    exposed = factor(speeds.exposed_ratio(found, sppo[point]))
    busy = factor(speeds.bubble_free_ratio(found, sppo[point]))
    return exposed if exposed == busy else f"{exposed}, {busy} without idle time"


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
