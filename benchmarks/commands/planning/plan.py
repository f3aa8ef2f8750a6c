"""`sppo-bench plan`: the plan's card, or JSON."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from benchmarks.commands.arguments import find_selected, planned, solver_options
from benchmarks.commands.flags import Selection
from benchmarks.commands.output import show
from benchmarks.records.plan_record import plan_data
from sppo.config.hardware import load_hardware
from sppo.cost_model.time_shares import time_shares
from sppo.planner.report.card import plan_card


@dataclass(frozen=True, kw_only=True)
class Plan(Selection):
    """Show the plan of SPPO's solver for a workload; needs no GPU. Exits 1 if no plan fits.

    Example: sppo-bench plan tiny-cpu --device-memory 120MiB

    Example: sppo-bench plan --model gpt-7b --seq 4M --gpus 128 --hardware a100-80g
    """

    def run(self) -> int:
        """Show the plan's card or JSON; the exit code. Raises UsageError or Infeasible."""
        plan = planned(self)
        workload = find_selected(self)
        profile = load_hardware(workload.cluster.hardware)
        solver = solver_options(self).solver
        data = plan_data(plan, solver=solver, profile_kind=profile.kind)
        shares = time_shares(plan, profile)
        data["time_shares"] = asdict(shares)
        show(self.json, data, plan_card(plan, profile, workload, shares))
        return 0
