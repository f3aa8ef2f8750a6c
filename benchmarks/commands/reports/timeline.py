"""`sppo-bench timeline`: a planned step, and the one that ran, as Chrome traces and as a figure."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import arg

from benchmarks.commands.arguments import (
    MODEL_FLAGS,
    UsageError,
    flag,
    planned,
    solver_flags,
    tell_infeasible,
)
from benchmarks.commands.flags import Selection
from benchmarks.commands.output import show_json
from benchmarks.records import provenance, store
from benchmarks.records import timeline as timelines
from benchmarks.records.store import RecordError
from benchmarks.records.timeline import Event, Measured
from benchmarks.reporting import timeline_figure
from benchmarks.reporting.chrome_trace import write_traces
from benchmarks.reporting.timeline_figure import Panel
from sppo.config.errors import Infeasible, NotBuilt
from sppo.config.hardware import Hardware, load_hardware
from sppo.plan.plan import Plan

FIGURE = "timeline.png"


@dataclass(frozen=True, kw_only=True)
class Timeline(Selection):
    """Write the simulated step, and a measured one beside it, as Chrome traces and as a figure.

    Example: sppo-bench timeline tiny-cpu

    Example: sppo-bench timeline --run results/runs/20261124-072759-tiny-cpu
    """

    run_directory: Annotated[Path | None, arg(name="run", metavar="DIR")] = None
    """A folder of `sppo-bench run`: draw the plan that ran there, simulated and measured."""
    output: Annotated[Path | None, arg(metavar="DIR")] = None
    """Folder to write into; DIR/timeline, or results/runs/timeline-WORKLOAD, if not given."""

    def run(self) -> int:
        """Write simulated/rank-N.json, measured/rank-N.json with --run, and timeline.png."""
        measured = None if self.run_directory is None else self._measured(self.run_directory)
        try:
            plan = planned(self) if measured is None else measured.plan
            profile = load_hardware(plan.hardware)
        except Infeasible as error:
            return tell_infeasible(self, error)
        except NotBuilt as error:
            raise UsageError(error) from None
        if self.output is not None:
            directory = self.output
        elif self.run_directory is not None:
            directory = self.run_directory / "timeline"
        else:
            directory = store.results_directory() / "runs" / f"timeline-{plan.workload}"
        try:
            paths = write(plan, profile, measured, directory)
        except OSError as error:
            raise UsageError(f"{error}; name another folder with --output DIR") from None
        if self.json:
            show_json({"directory": str(directory), "files": [str(path) for path in paths]})
        else:
            labels = "simulated" if measured is None else "simulated and measured"
            print(f"{labels} timeline of {plan.workload}: {directory}")
            for path in paths:
                print(f"  {path.relative_to(directory)}")
            print("open a rank's .json at https://ui.perfetto.dev", file=sys.stderr)
        return 0

    def _measured(self, run: Path) -> Measured:
        """The launch to draw. Raises UsageError, also for flags of another plan than it ran."""
        fixed = (*MODEL_FLAGS, "device_memory", "sequences_per_step", *solver_flags(self))
        given = [name for name in fixed if getattr(self, name) is not None]
        if given:
            raise UsageError(
                f"--run draws the plan that ran: leave {', '.join(map(flag, given))} out, or --run"
            )
        try:
            measured = timelines.find_measured(run)
        except RecordError as error:
            raise UsageError(error) from None
        name = measured.record.workload.name
        if self.workload not in (None, name):
            raise UsageError(f"{run} ran {name}, not {self.workload}: leave {self.workload} out")
        return measured


def write(plan: Plan, profile: Hardware, measured: Measured | None, directory: Path) -> list[Path]:
    """All files of one timeline; with SP inside a stage, its ranks do the same at one time."""
    simulated = timelines.simulated(plan, profile)
    width = plan.sequence_parallel
    ranks = plan.pipeline_parallel * width
    first_ranks = range(0, ranks, width)
    paths = write_traces(
        simulated,
        directory / "simulated",
        label="simulated",
        ranks=ranks,
        first_ranks=first_ranks,
    )
    share = timelines.bubble_share(simulated, overlapped_copies=profile.overlapped_copies)
    kind = f"from the {profile.kind} profile {profile.name}"
    panels = [
        Panel(
            label="simulated",
            caption=_caption(simulated, share, kind),
            stages=plan.pipeline_parallel,
            ranks=first_ranks,
            timelines=simulated,
        )
    ]
    if measured is not None:
        paths += write_traces(
            measured.timelines,
            directory / "measured",
            label="measured",
            ranks=len(measured.timelines),
            first_ranks=range(len(measured.timelines)),
        )
        panels.append(_measured_panel(measured))
    layout = f"SP {width} x PP" if width > 1 else "PP"
    title = (
        f"{plan.workload}: forward and backward of one step, {layout} {plan.pipeline_parallel}, "
        f"{plan.virtual_stages} chunks a stage, N {plan.subsequences}"
    )
    timeline_figure.draw(panels, directory / FIGURE, title=title)
    return [*paths, directory / FIGURE]


def _measured_panel(measured: Measured) -> Panel:
    record = measured.record
    where = (
        f"last step of launch {record.launch}, {provenance.machine(record)}, "
        f"{provenance.commit(record)}, {record.started[:10]}"
    )
    caption = _caption(measured.timelines, record.bubble_share, where)
    return Panel(
        label="measured",
        caption=caption,
        stages=measured.plan.pipeline_parallel,
        ranks=range(len(measured.timelines)),
        timelines=measured.timelines,
    )


def _caption(steps: Sequence[Sequence[Event]], share: float | None, source: str) -> str:
    start_ns, end_ns = timelines.span_ns(steps)
    bubble = "" if share is None else f", bubble share {share:.1%}"
    return f"{(end_ns - start_ns) / 1e9:.3f} s{bubble} · {source}"
