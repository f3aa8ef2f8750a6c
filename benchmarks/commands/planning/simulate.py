"""`sppo-bench simulate`: the planned step, or a bare pipeline in unit costs."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from benchmarks.commands.arguments import (
    MODEL_FLAGS,
    UsageError,
    check_positive,
    find_selected,
    flag,
    given_flags,
    planned,
    solver_flags,
    usage_errors,
)
from benchmarks.commands.flags import Selection
from benchmarks.commands.output import show_json
from benchmarks.reporting import simulated_step
from benchmarks.reporting.simulated_step import Simulated
from sppo.config.hardware import load_hardware

UNIT_FLAGS = ("pipeline_parallel", "subsequences", "virtual_stages", "sequences_per_step", "msp")
"""The flags of a pipeline without a model."""


@dataclass(frozen=True, kw_only=True)
class Simulate(Selection):
    """Simulate the planned step: makespan, bubbles, peaks, transfers. Exits 1 if no plan fits.

    Example: sppo-bench simulate tiny-cpu

    Example: sppo-bench simulate --pp 4 --n 8 --unit-costs
    """

    unit_costs: bool = False
    """No model: --pp stages, --n subsequences, a forward costs one unit and a backward two."""

    def run(self) -> int:
        """Show simulated numbers; the exit code. Raises UsageError or Infeasible."""
        if self.unit_costs:
            step = self._unit_costs()
        else:
            plan = planned(self)
            profile = load_hardware(find_selected(self).cluster.hardware)
            step = simulated_step.of_plan(plan, profile)
        if self.json:
            show_json(asdict(step))
        else:
            print(simulated_step.text(step))
        return 0

    def _unit_costs(self) -> Simulated:
        model_flags = ("workload", *MODEL_FLAGS, "device_memory", *solver_flags(self))
        given = sorted(given_flags(self, model_flags).keys() - set(UNIT_FLAGS))
        if given:
            name = "WORKLOAD" if given[0] == "workload" else flag(given[0])
            raise UsageError(
                f"--unit-costs has no model: leave {name} out; it takes --pp, --n, "
                "--virtual-stages --sequences-per-step and --msp"
            )
        check_positive(self, tuple(name for name in UNIT_FLAGS if name != "msp"))
        if self.pipeline_parallel is None or self.subsequences is None:
            raise UsageError(
                "--unit-costs needs --pp STAGES and --n SUBSEQUENCES, for example 4 and 8"
            )
        with usage_errors():
            return simulated_step.of_unit_costs(
                pipeline_parallel=self.pipeline_parallel,
                subsequences=self.subsequences,
                virtual_stages=self.virtual_stages or 1,
                sequences=self.sequences_per_step or 1,
                msp=self.msp,
            )
