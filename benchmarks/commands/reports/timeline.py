"""`sppo-bench timeline`: a simulated and a measured step, as Chrome traces and as a figure."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import arg

from benchmarks.commands import arguments
from benchmarks.commands.arguments import UsageError, usage_errors
from benchmarks.commands.flags import Selection
from benchmarks.commands.output import show
from benchmarks.records import provenance, store
from benchmarks.records import timeline as timelines
from benchmarks.records.timeline import Event, MeasuredLaunch
from benchmarks.reporting import timeline_figure
from benchmarks.reporting.chrome_trace import write_traces
from benchmarks.reporting.timeline_figure import Panel
from sppo.config.hardware import Hardware, load_hardware
from sppo.plan.plan import Plan

FIGURE = "timeline.png"


@dataclass(frozen=True, kw_only=True)
class Timeline(Selection):
    """Write the simulated step, and a measured one, as Chrome traces and as a figure.

    Example: sppo-bench timeline tiny-cpu

    Example: sppo-bench timeline --run results/runs/20261124-072759-tiny-cpu
    """

    run_directory: Annotated[Path | None, arg(name="run", metavar="DIR")] = None
    """A folder of `sppo-bench run`: draw the plan that ran there, simulated and measured."""
    output: Annotated[Path | None, arg(metavar="DIR")] = None
    """Folder to write into; DIR/timeline, or results/runs/timeline-WORKLOAD, if not given."""

    def run(self) -> int:
        """Write simulated/rank-N.json, measured/rank-N.json with --run, and timeline.png.

        Returns the exit code. Raises UsageError or Infeasible.
        """
        measured = None if self.run_directory is None else self._measured(self.run_directory)
        with usage_errors():
            if measured is None:
                plan, workload = arguments.planned(self), arguments.find_selected(self)
            else:
                plan, workload = measured.plan, measured.record.workload
            profile = load_hardware(workload.cluster.hardware)
        directory = self.output or self._directory(plan)
        try:
            paths = write(plan, profile, measured, directory)
        except OSError as error:
            raise UsageError(f"{error}; name another folder with --output DIR") from None
        values = {"directory": str(directory), "files": [str(path) for path in paths]}
        labels = "simulated" if measured is None else "simulated and measured"
        lines = [f"{labels} timeline of {plan.workload}: {directory}"]
        lines += [f"  {path.relative_to(directory)}" for path in paths]
        show(self.json, values, "\n".join(lines))
        print("open a rank's .json at https://ui.perfetto.dev", file=sys.stderr)
        return 0

    def _directory(self, plan: Plan) -> Path:
        if self.run_directory is not None:
            return self.run_directory / "timeline"
        return store.results_directory() / "runs" / f"timeline-{plan.workload}"

    def _measured(self, run: Path) -> MeasuredLaunch:
        """The launch to draw. Raises UsageError, also for flags that select a plan."""
        plan_flags = (*arguments.MODEL_FLAGS, "device_memory", "sequences_per_step")
        given = arguments.given_flags(self, plan_flags) | arguments.solver_flags(self)
        if given:
            flags = ", ".join(map(arguments.flag, given))
            raise UsageError(f"--run draws the plan that ran: leave {flags} out, or --run")
        with usage_errors():
            measured = timelines.find_measured(run)
        name = measured.record.workload.name
        if self.workload not in (None, name):
            raise UsageError(f"{run} ran {name}, not {self.workload}: leave {self.workload} out")
        return measured


def write(
    plan: Plan, profile: Hardware, measured: MeasuredLaunch | None, directory: Path
) -> list[Path]:
    """Write all files of one timeline; their paths.

    The simulated step has one timeline per stage, under the first rank of the stage: the further
    ranks of a stage (SP) do the same at the same time.
    """
    steps = timelines.simulated(plan, profile)
    width = plan.sequence_parallel
    share = timelines.bubble_share(steps, overlapped_copies=profile.overlapped_copies)
    panels = [
        Panel(
            label="simulated",
            caption=_caption(steps, share, f"from the {profile.kind} profile {profile.name}"),
            stages=plan.pipeline_parallel,
            ranks=range(0, plan.pipeline_parallel * width, width),
            timelines=steps,
        )
    ]
    if measured is not None:
        panels.append(_measured_panel(measured))
    paths = []
    for panel in panels:
        folder = directory / panel.label
        paths += write_traces(panel.timelines, folder, label=panel.label, ranks=panel.ranks)
    layout = f"SP {width} x PP" if width > 1 else "PP"
    title = (
        f"{plan.workload}: forward and backward of one step, {layout} {plan.pipeline_parallel}, "
        f"chunks a stage {plan.virtual_stages}, N {plan.subsequences}"
    )
    timeline_figure.draw(panels, directory / FIGURE, title=title)
    return [*paths, directory / FIGURE]


def _measured_panel(measured: MeasuredLaunch) -> Panel:
    record = measured.record
    source = f"last step of launch {record.launch}, {provenance.measured_on(record)}"
    return Panel(
        label="measured",
        caption=_caption(measured.timelines, record.bubble_share, source),
        stages=measured.plan.pipeline_parallel,
        ranks=range(len(measured.timelines)),
        timelines=measured.timelines,
    )


def _caption(steps: Sequence[Sequence[Event]], share: float | None, source: str) -> str:
    start_ns, end_ns = timelines.span_ns(steps)
    bubble = "" if share is None else f", bubble share {share:.1%}"
    return f"{(end_ns - start_ns) / 1e9:.3f} s{bubble} · {source}"
