"""`sppo-bench ablation --simulate`: the paper's fig. 11 as tables of simulated steps, or JSON."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from benchmarks.commands.arguments import (
    DEGREE_FLAGS,
    UsageError,
    check_positive,
    find_described,
    flag,
    refuse,
)
from benchmarks.commands.output import show_json
from benchmarks.commands.studies.flags import Ablation
from benchmarks.paper import reported
from benchmarks.paper.offload_ablation import SCHEMA, point
from benchmarks.paper.offload_ablation_report import text, told
from benchmarks.paper.reported import ReportedPoint
from benchmarks.workloads import of_flags
from sppo.config.errors import NotBuilt
from sppo.config.hardware import Profile, load_profile
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
