"""A world of one: every kind of group starts, and what a communicator takes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from benchmarks.gpu.communicators import collective_seconds, communicator_bytes, world_of_one
from benchmarks.gpu.place import Place
from sppo.comm.mesh import join_groups
from sppo.config.hardware import load_hardware
from sppo.planner.options import SolverOptions
from sppo.planner.solve import solve


def world(place: Place) -> dict[str, Any]:
    """Join the engine's groups of a plan on one rank, and time each collective."""
    values: dict[str, Any] = {"communicator_bytes": communicator_bytes(place)}
    workload = place.workload(place.sizes.stages_tokens)
    options = SolverOptions(subsequences=place.sizes.subsequences)
    plan = solve(replace(workload, host_memory_bytes=None), load_hardware(place.profile), options)
    with world_of_one(place):
        groups = join_groups(plan)
        values["coordinate"] = groups.coordinate._asdict()
        values["collective_seconds"] = collective_seconds(place, place.sizes.copied_bytes // 16)
    return values
