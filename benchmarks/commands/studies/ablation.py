"""`sppo-bench ablation`: SPPO under each policy, interleaved, as table, CSV, JSON and figure."""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import partial
from typing import Annotated

from tyro.conf import arg

from benchmarks.commands import arguments, several_nodes
from benchmarks.commands.arguments import DEGREE_FLAGS, MODEL_FLAGS, refuse, usage_errors
from benchmarks.commands.flags import Measuring
from benchmarks.commands.output import show_study
from benchmarks.commands.run_folder import run_folder, unfinished
from benchmarks.commands.studies import simulated_ablation
from benchmarks.commands.studies.simulated_ablation import SimulatedAblation
from benchmarks.commands.tracked import tracked
from benchmarks.launch import preparing, run
from benchmarks.launch.gate import exit_code
from benchmarks.launch.options import Options
from benchmarks.launch.progress import display
from benchmarks.launch.ranks.team import Team
from benchmarks.reporting.bar_chart import bar_chart
from benchmarks.studies import ablation as ablations
from benchmarks.studies import publish
from benchmarks.studies.ablation_report import as_json, csv_text, text
from benchmarks.tracking import studies as tracking
from benchmarks.workloads import DEFAULT
from sppo.config.sizes import limit_label
from sppo.config.workload import Workload
from sppo.planner.activations.policies import POLICIES

SIMULATED_FLAGS = (*MODEL_FLAGS, *DEGREE_FLAGS, "host_link", "node_link")
"""Flags of a simulation alone."""

MEASURED_FLAGS = (*(field.name for field in fields(Measuring) if field.name != "json"), "policies")
"""Flags of a measured ablation alone."""


@dataclass(frozen=True, kw_only=True)
class AblationRequest:
    """A checked `ablation` command with launches. `auto` comes first among its policies."""

    workload: Workload
    policies: list[str]
    options: Options


@dataclass(frozen=True, kw_only=True)
class Ablation(Measuring, SimulatedAblation):
    """Measure SPPO under each of its policies, all in the layout of auto's plan.

    --simulate simulates the paper's ablation (fig. 11) and launches nothing. Flags of the layout
    (--sp, --pp, --dp, --n, --virtual-stages), the model and the links are for --simulate alone.

    Example: sppo-bench ablation tiny-cpu --policies auto,paper,full-recompute

    Example: sppo-bench ablation --simulate
    """

    policies: Annotated[tuple[str, ...], arg(metavar="NAMES")] = ()
    """Policies, by comma or space: auto, paper, full-offload, no-offload, lean, full-recompute; all
    if not given."""

    def run(self) -> int:
        """Plan, launch, compare, write; exits 1 on a mismatch or a failure. Raises UsageError."""
        if self.simulate:
            refuse(self, MEASURED_FLAGS, "it is for launches, and --simulate has none")
            return simulated_ablation.show_points(self.simulated_points(), self.json)
        request = self.check()
        return several_nodes.on_nodes(
            self, request.workload, partial(self._measure, request), asked=self.workload or DEFAULT
        )

    def check(self) -> AblationRequest:
        """The launches from the flags. Raises UsageError."""
        why = "it goes with --simulate; launches have the layout of auto's plan"
        refuse(self, SIMULATED_FLAGS, why)
        workload = arguments.find_workload(self.workload or DEFAULT, self.device_memory)
        workload = arguments.with_data(workload, self)
        workload = several_nodes.divided(workload, several_nodes.count_of(self))
        policies = arguments.chosen(self.policies, POLICIES, "policy")
        policies.sort(key=lambda policy: policy != "auto")
        options = arguments.options(self, workload.cluster)
        return AblationRequest(workload=workload, policies=policies, options=options)

    def _measure(self, request: AblationRequest, team: Team) -> int:
        """Plan, launch, compare and write on this node; the exit code."""
        workload, policies, options = request.workload, request.policies, request.options
        with usage_errors(OSError):
            layout, layout_policy = ablations.fixed_layout(workload, policies)
            plans = ablations.configurations(workload, policies, layout)
        rows = [configuration for configuration, _ in plans.values()]
        with (
            run_folder(self, workload, rows) as directory,
            tracked(self, directory) as live,
        ):
            with usage_errors(OSError):
                inputs = preparing.prepare(workload, options, directory, team)
            with display() as shown:
                feed = tracking.LaunchFeed(run=live, series=tracking.by_row)
                done = run.run(inputs, rows, unfinished(self, options), shown, on_record=feed)
            results = ablations.results(done, plans)
            data = as_json(done, results, layout_policy)
            document = text(done, results, layout_policy)
            publish.write(directory, "ablation", document, csv_text(results), data)
            bar_chart(done, directory / "ablation.png")
            tracking.end_ablation(live, results, exit_code(done))
        name = f"{workload.name}-{limit_label(workload.device_memory_bytes)}"
        show_study(self, directory, "ablation", f"ablation/{name}", data, document)
        return exit_code(done)
