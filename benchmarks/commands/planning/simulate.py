"""`sppo-bench simulate`: the planned step, or a bare pipeline in unit costs."""

from __future__ import annotations

from dataclasses import asdict

from benchmarks.commands.arguments import (
    MODEL_FLAGS,
    UsageError,
    check_positive,
    flag,
    planned,
    solver_flags,
    tell_infeasible,
)
from benchmarks.commands.output import show_json
from benchmarks.commands.planning.flags import Simulate
from benchmarks.reporting import simulated_step
from benchmarks.reporting.simulated_step import Simulated
from sppo.config.errors import Infeasible
from sppo.config.hardware import load_profile

UNIT_FLAGS = ("pipeline_parallel", "subsequences", "virtual_stages", "sequences_per_step", "msp")
"""What a pipeline without a model has."""


def simulate(verb: Simulate) -> int:
    """Tables or JSON; every number is simulated."""
    if verb.unit_costs:
        step = _unit_costs(verb)
    else:
        try:
            plan = planned(verb)
        except Infeasible as error:
            return tell_infeasible(verb, error)
        step = simulated_step.of_plan(plan, load_profile(plan.hardware))
    if verb.json:
        show_json(asdict(step))
    else:
        print(simulated_step.text(step))
    return 0


def _unit_costs(verb: Simulate) -> Simulated:
    others = {"workload", *MODEL_FLAGS, "device_memory", *solver_flags(verb)} - set(UNIT_FLAGS)
    others.discard("no_msp")
    given = sorted(name for name in others if getattr(verb, name) is not None)
    if given:
        name = "WORKLOAD" if given[0] == "workload" else flag(given[0])
        raise UsageError(
            f"--unit-costs has no model: leave {name} out; it takes --pp, --n, --virtual-stages "
            "--sequences-per-step and --msp"
        )
    check_positive(verb, tuple(name for name in UNIT_FLAGS if name != "msp"))
    if verb.pipeline_parallel is None or verb.subsequences is None:
        raise UsageError("--unit-costs needs --pp STAGES and --n SUBSEQUENCES, for example 4 and 8")
    try:
        return simulated_step.of_unit_costs(
            pipeline_parallel=verb.pipeline_parallel,
            subsequences=verb.subsequences,
            virtual_stages=verb.virtual_stages or 1,
            sequences=verb.sequences_per_step or 1,
            msp=verb.msp,
        )
    except ValueError as error:
        raise UsageError(error) from None
