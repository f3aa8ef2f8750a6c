"""`sppo-bench simulate`: the planned step, or a bare pipeline in unit costs."""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.commands import arguments
from benchmarks.commands.arguments import UsageError, usage_errors
from benchmarks.commands.flags import Selection
from benchmarks.commands.output import show
from benchmarks.reporting import simulated_step
from benchmarks.reporting.simulated_step import Simulated
from sppo.config.hardware import load_hardware

UNIT_FLAGS = ("pipeline_parallel", "subsequences", "virtual_stages", "sequences_per_step", "msp")
"""The flags of a pipeline without a model."""


@dataclass(frozen=True, kw_only=True)
class Simulate(Selection):
    """Simulate the planned step: time, idle time, memory peaks, copies. Exits 1 if no plan fits.

    Example: sppo-bench simulate tiny-cpu

    Example: sppo-bench simulate --pp 4 --n 8 --unit-costs
    """

    unit_costs: bool = False
    """A pipeline without a model: --pp stages and --n subsequences. A forward costs one unit, a
    backward two."""

    def run(self) -> int:
        """Show simulated numbers; the exit code. Raises UsageError or Infeasible."""
        if self.unit_costs:
            step = self._unit_costs()
        else:
            plan = arguments.planned(self)
            profile = load_hardware(arguments.find_selected(self).cluster.hardware)
            step = simulated_step.of_plan(plan, profile)
        show(self.json, step, simulated_step.text(step))
        return 0

    def _unit_costs(self) -> Simulated:
        plan_flags = ("workload", *arguments.MODEL_FLAGS, "device_memory")
        given = arguments.given_flags(self, plan_flags) | arguments.solver_flags(self)
        unknown = sorted(given.keys() - set(UNIT_FLAGS))
        if unknown:
            name = "WORKLOAD" if unknown[0] == "workload" else arguments.flag(unknown[0])
            raise UsageError(
                f"--unit-costs has no model: leave {name} out; it takes --pp, --n, "
                "--virtual-stages --sequences-per-step and --msp"
            )
        arguments.check_positive(self, tuple(name for name in UNIT_FLAGS if name != "msp"))
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
