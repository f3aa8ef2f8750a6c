"""`sppo-bench plan`: the plan's card, or JSON."""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.commands.arguments import find_selected, planned, solver_options, tell_infeasible
from benchmarks.commands.flags import Selection
from benchmarks.commands.output import show_json
from benchmarks.records.plan_record import plan_data
from sppo.config.errors import Infeasible


@dataclass(frozen=True, kw_only=True)
class Plan(Selection):
    """Show what SPPO's solver decides for a workload; needs no GPU. Exits 1 if nothing fits.

    Example: sppo-bench plan tiny-cpu --device-memory 120MiB

    Example: sppo-bench plan --model gpt-7b --seq 4M --gpus 128 --hardware a100-80g
    """

    def run(self) -> int:
        """Show the plan's card or JSON; the exit code. Raises UsageError."""
        from sppo.config.hardware import load_hardware
        from sppo.planner.report.card import card

        try:
            plan = planned(self)
        except Infeasible as error:
            return tell_infeasible(self, error)
        workload = find_selected(self)
        profile = load_hardware(workload.cluster.hardware)
        if self.json:
            solver = solver_options(self).solver
            show_json(plan_data(plan, solver=solver, profile_kind=profile.kind))
        else:
            print(card(plan, profile, workload))
        return 0
