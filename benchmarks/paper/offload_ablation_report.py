"""`sppo-bench ablation --simulate`: the paper's fig. 11 as tables of simulated steps, or JSON."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict, replace
from typing import Any

from benchmarks.commands.arguments import (
    DEGREE_FLAGS,
    UsageError,
    check_positive,
    find_described,
    flag,
)
from benchmarks.commands.output import show_json
from benchmarks.commands.studies.ablation import refuse
from benchmarks.commands.study_flags import Ablation
from benchmarks.paper import offload_ablation_order, reported
from benchmarks.paper.offload_ablation import SCHEMA, Point, Row, point
from benchmarks.paper.reported import ReportedPoint
from benchmarks.reporting.tables import NO_NUMBER, size_words
from benchmarks.workloads import of_flags
from sppo.config.errors import NotBuilt
from sppo.config.hardware import Profile, load_profile
from sppo.config.sizes import length_name
from sppo.config.workload import Workload
from sppo.planner.options import SolverOptions

MEASURED_FLAGS = (
    "launches",
    "measured_steps",
    "warmup_steps",
    "time_limit",
    "publish",
    "output",
    "policies",
)
"""What a simulation does not take."""

COLUMNS = (
    "simulated variant",
    "s a step",
    "speed / full offload",
    "paper (fig. 11, read off)",
    "compute s",
    "bubble share",
    "exposed copies s",
    "device peak",
    "host peak",
)


def simulated_ablation(verb: Ablation) -> int:
    """Tables or JSON; exits 1 if no variant of any point has a plan. Raises UsageError."""
    refuse(verb, MEASURED_FLAGS, "it is for launches, and --simulate has none")
    check_positive(verb, DEGREE_FLAGS)
    try:
        asked = SolverOptions(**{name: getattr(verb, name) for name in DEGREE_FLAGS})
        found = [
            point(workload, _profile(workload, verb), asked, source)
            for workload, source in _workloads(verb)
        ]
    except (ValueError, NotBuilt, OSError) as error:
        raise UsageError(error) from None
    if verb.json:
        show_json({"schema": SCHEMA, "points": [told(one) for one in found]})
    else:
        print("\n\n".join(text(one) for one in found))
    return 0 if any(row.status == "ok" for one in found for row in one.rows) else 1


def _workloads(verb: Ablation) -> Iterator[tuple[Workload, ReportedPoint | None]]:
    """What was described, or the points of the paper's fig. 11."""
    described = find_described(verb)
    if described is not None:
        yield described, reported.find_point(described)
        return
    for source in reported.ablation_points():
        workload = of_flags(
            model=source.model,
            seq=source.seq,
            gpus=source.gpus,
            hardware=reported.ABLATION_HARDWARE,
            device_memory=verb.device_memory,
        )
        yield workload, source


def _profile(workload: Workload, verb: Ablation) -> Profile:
    """The workload's profile, with the asked links and a name that says so."""
    profile = load_profile(workload.cluster.hardware)
    for name, fields, words in (
        ("host_link", ("d2h_bytes_per_second", "h2d_bytes_per_second"), "host link"),
        ("node_link", ("internode_bytes_per_second",), "node link"),
    ):
        rate = getattr(verb, name)
        if rate is None:
            continue
        if not 0 < rate < math.inf:
            raise UsageError(f"{flag(name)} {rate:g}: it must be more than 0 GB/s")
        changes: dict[str, Any] = dict.fromkeys(fields, rate * 1e9)
        changes["name"] = f"{profile.name}, {words} {rate:g} GB/s"
        profile = replace(profile, **changes)
    return profile


def text(one: Point) -> str:
    """Header, table and notes of a point."""
    from tabulate import tabulate

    limit, host = size_words(one.device_memory_bytes), size_words(one.host_memory_bytes)
    head = [
        f"{one.model}, {length_name(one.sequence_tokens)} tokens, {one.ranks} ranks, simulated "
        f"with {one.hardware} ({one.profile_kind} profile)",
        f"- layout: {one.layout}; from {one.layout_from}; rows named further or what if differ",
        f"- a rank's limits: device {limit if one.device_memory_bytes else 'none'}, host {host}",
    ]
    table = tabulate(
        [_cells(row) for row in one.rows],
        headers=COLUMNS,
        tablefmt="github",
        disable_numparse=True,
        colalign=("left", *("right",) * (len(COLUMNS) - 1)),
    )
    return "\n".join([*head, "", table, "", *(f"- {line}" for line in _notes(one))])


def _cells(row: Row) -> list[str]:
    reported_speed = _number(row.paper_speed_over_full_offload, "{:.2f}x")
    if row.step_seconds is None:
        return [row.variant, row.status, NO_NUMBER, reported_speed, *[NO_NUMBER] * 5]
    return [
        row.variant,
        f"{row.step_seconds:.3f}",
        _number(row.speed_over_full_offload, "{:.3f}x"),
        reported_speed,
        _number(row.compute_seconds, "{:.3f}"),
        _number(row.bubble_share, "{:.1%}"),
        _number(row.exposed_copy_seconds, "{:.3f}"),
        size_words(row.peak_device_bytes),
        size_words(row.host_peak_bytes),
    ]


def _number(value: float | None, form: str) -> str:
    return NO_NUMBER if value is None else form.format(value)


def _notes(one: Point) -> Iterator[str]:
    for row in one.rows:
        if row.status != "ok":
            yield f"{row.variant}: {row.status}: {row.reason}"
        elif row.layout != one.layout:
            yield f"{row.variant}: {row.layout}"
    for comparison in offload_ablation_order.comparisons(one):
        yield offload_ablation_order.words(comparison)
    over = {row.variant: row.paper_speed_over_megatron for row in one.rows}
    known = [f"{name} {speed:.2f}x" for name, speed in over.items() if speed is not None]
    if known:
        yield f"over Megatron, paper (fig. 11, read off): {', '.join(known)}; not simulated here"


def told(one: Point) -> dict[str, Any]:
    """A point for programs."""
    order = [asdict(comparison) for comparison in offload_ablation_order.comparisons(one)]
    return {**asdict(one), "order": order, "megatron": "not simulated"}
