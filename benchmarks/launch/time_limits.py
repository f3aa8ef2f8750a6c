"""The time limit of a launch, where the user gives none. The rule: docs/resume.md, "Time limits".

A limit ends hangs. So the limit is generous: a slow launch must never be taken for a hang.
"""

from __future__ import annotations

import math

from benchmarks.rows.references import SLOW
from benchmarks.rows.row import EXACT_REFERENCE, Configuration
from sppo.config.hardware import load_hardware
from sppo.config.workload import Workload
from sppo.cost_model import flops
from sppo.plan.weights import parameter_count

FACTOR = 10
"""The limit of a step over its expected time: room for other load, slow kernels and counting."""

FLOOR_SECONDS = 300.0
"""No limit is shorter."""

START_SECONDS = 60.0
"""Imports and the meeting of the ranks."""

WEIGHTS_BYTES_PER_SECOND = 100e6
"""A slow disk, from which all ranks read the weights."""

UNKNOWN_SECONDS = 3600.0
"""The limit of a launch on hardware without a profile."""

INPUTS_SECONDS = 300.0
"""The limit of weights and tokens, beside the time of the weights."""

INPUTS_FACTOR = 3
"""Weights are made, written and read once for their digest."""

RECOMPUTE = 4 / 3
"""FLOPs with full recompute over those without: four forwards for three."""


def inputs_limit_seconds(workload: Workload) -> float:
    """The limit of a node's weights and tokens, after those of node 0 are written."""
    return INPUTS_SECONDS + INPUTS_FACTOR * weights_seconds(workload)


def weights_seconds(workload: Workload) -> float:
    """The time of a slow disk for the initial weights, once."""
    return parameter_count(workload.model) * workload.element_bytes / WEIGHTS_BYTES_PER_SECOND


def limit_seconds(workload: Workload, configuration: Configuration, steps: int) -> float:
    """The limit of a launch of so many steps in whole minutes, as seconds."""
    try:
        step_seconds = expected_step_seconds(workload, configuration)
    except ValueError:
        return UNKNOWN_SECONDS
    start_seconds = START_SECONDS + weights_seconds(workload)
    seconds = max(FLOOR_SECONDS, start_seconds + FACTOR * steps * step_seconds)
    return 60.0 * math.ceil(seconds / 60)


def expected_step_seconds(workload: Workload, configuration: Configuration) -> float:
    """The simulated step of the row's plan, or the work at the profile's peak: the longer one.

    The work has causal attention and full recompute. Without a plan a pipeline of P stages is idle
    while the M sequences of its replica fill it: the time is (M + P - 1) / M of a full pipeline.
    Raises ValueError without a profile.
    """
    profile = load_hardware(workload.cluster.hardware)
    ranks = 1 if configuration.row.is_reference else workload.cluster.ranks
    work_seconds = RECOMPUTE * flops.step_flops(workload).causal
    work_seconds /= ranks * profile.peak_flops_per_second
    if configuration.row == EXACT_REFERENCE:
        work_seconds *= SLOW
    plan = configuration.plan
    if plan is not None:
        simulated_seconds = float(plan["makespan_seconds"] + plan["reduction_seconds"])
        return max(work_seconds, simulated_seconds)
    degrees = {
        name: int(degree or 1)
        for name, degree in configuration.settings.items()
        if name.endswith("_parallel")
    }
    stages = degrees.get("pipeline_parallel", 1)
    replicas = max(1, ranks // math.prod(degrees.values()))
    sequences = max(1, workload.sequences_per_step // replicas)
    return work_seconds * (sequences + stages - 1) / sequences
