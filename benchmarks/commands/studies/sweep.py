"""`sppo-bench sweep`: check the flags, measure every value, write and show the results."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import arg

from benchmarks.commands import arguments, several_nodes
from benchmarks.commands.arguments import UsageError, usage_errors
from benchmarks.commands.flags import Measuring, Named
from benchmarks.commands.output import show_study
from benchmarks.commands.run_folder import run_folder, unfinished
from benchmarks.commands.tracked import tracked
from benchmarks.launch.gate import exit_code
from benchmarks.launch.progress import display
from benchmarks.launch.ranks.team import Team
from benchmarks.records import provenance
from benchmarks.records.record import Record
from benchmarks.studies import publish, sweep_report
from benchmarks.studies import sweep as sweeps
from benchmarks.studies.sweep import Quantity, SweepPoint, SweepRequest
from benchmarks.studies.sweep_figure import line_chart
from benchmarks.tracking import studies as tracking
from sppo.config.sizes import parse_bytes


@dataclass(frozen=True, kw_only=True)
class Sweep(Measuring, Named):
    """Measure the best row of each system at several device limits, or sequences per step.

    Example: sppo-bench sweep tiny-cpu --device-memory 100MiB,136MiB,200MiB,none

    Example: sppo-bench sweep tiny-cpu --sequences-per-step 1,2,4 --systems sppo,megatron
    """

    device_memory: Annotated[str | None, arg(metavar="SIZES")] = None
    """Limits of one rank's device, by comma: 100MiB,136MiB,none. With --sequences-per-step give one
    limit."""
    sequences_per_step: Annotated[str | None, arg(metavar="COUNTS")] = None
    """Numbers of sequences of an optimizer step, by comma: 1,2,4."""
    systems: Annotated[tuple[str, ...], arg(metavar="NAMES")] = ()
    """Rows, by comma or space, as for `run`; a system's name is its best row: deepspeed, megatron,
    native, sppo; these four if not given."""
    points: Annotated[int, arg(metavar="COUNT")] = 4
    """Settings to try for a library without a measured grid; the fastest goes on."""

    def run(self) -> int:
        """Measure all values; exits 1 on a mismatch or a failure at any. Raises UsageError."""
        request = self.check()
        return several_nodes.on_nodes(
            self, request.workload, partial(self._measure, request), asked=self.workload
        )

    def _measure(self, request: SweepRequest, team: Team) -> int:
        """Measure all values on this node, and on those of the team; the exit code."""
        points: list[SweepPoint] = []
        done: list[Record] = []
        folder = run_folder(self, request.workload)
        with (
            usage_errors(OSError),
            folder as directory,
            tracked(self, directory) as live,
            display() as shown,
        ):
            request = replace(request, options=unfinished(self, request.options))
            for label, workload in request.values.items():
                proven = sweeps.fitting_settings(done, workload)
                point, launches = sweeps.measure(request, label, directory, shown, proven, team)
                points.append(point)
                done += launches
                data, document = write(directory, request, points, done)
                tracking.log_point(live, request.quantity, point)
            tracking.end_sweep(live, request.quantity, points, exit_code(done))
        name = f"{request.workload.name}-{request.quantity}"
        show_study(self, directory, "sweep", f"sweeps/{name}", data, document)
        return exit_code(done)

    def check(self) -> SweepRequest:
        """The request of the flags. Raises UsageError before anything is written."""
        workload = arguments.with_data(arguments.find_workload(self.workload, None), self)
        workload = several_nodes.divided(workload, several_nodes.count_of(self))
        limits = limits_of(self.device_memory)
        counts = counts_of(self.sequences_per_step)
        if not limits and not counts:
            raise UsageError(
                "nothing to sweep: give --device-memory SIZES or --sequences-per-step N,N"
            )
        if counts and len(limits) > 1:
            raise UsageError(
                "one quantity at a time: with --sequences-per-step give one device memory"
            )
        if self.points < 1:
            raise UsageError(f"--points {self.points}: it must be at least 1")
        with usage_errors(ImportError):
            rows = sweeps.rows_of(arguments.names(self.systems))
        options = arguments.options(self, workload.cluster)
        quantity: Quantity = "sequences-per-step" if counts else "device-memory"
        return SweepRequest(
            workload=workload,
            quantity=quantity,
            values=sweeps.values(workload, quantity, limits, counts),
            rows=rows,
            options=options,
            points=self.points,
        )


def limits_of(text: str | None) -> list[int | None]:
    """Bytes, None for "none", each once. Raises UsageError."""
    with usage_errors():
        limits = [parse_bytes(part) for part in (text or "").split(",") if part.strip()]
    return list(dict.fromkeys(limits))


def counts_of(text: str | None) -> list[int]:
    """Positive numbers, each once. Raises UsageError."""
    parts = [part.strip() for part in (text or "").split(",") if part.strip()]
    wrong = [part for part in parts if not part.isdecimal() or int(part) < 1]
    if wrong:
        raise UsageError(f"--sequences-per-step {wrong[0]!r}: write counts as 1,2,4")
    return list(dict.fromkeys(int(part) for part in parts))


def write(
    directory: Path, request: SweepRequest, points: list[SweepPoint], done: list[Record]
) -> tuple[dict[str, Any], str]:
    """Write all files of the values so far, so that an interrupt loses none. Raises OSError.

    Returns JSON values and document.
    """
    about = request.workload, request.quantity, points, publish.first_measured(done)
    document, values = sweep_report.document(*about), sweep_report.as_json(*about)
    publish.write(directory, "sweep", document, sweep_report.csv_text(points), values)
    origin = provenance.origin(about[-1])
    line_chart(request.workload, request.quantity, points, origin, directory / "sweep.png")
    return values, document
