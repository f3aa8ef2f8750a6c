"""`sppo-bench paper --measure`: fig. 7, 10, 11 and 12 in miniature, by launches on this machine."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Annotated, Any

from tyro.conf import arg

from benchmarks.commands import arguments
from benchmarks.commands.arguments import UsageError, chosen, refuse, usage_errors
from benchmarks.commands.flags import Results
from benchmarks.commands.output import show
from benchmarks.commands.run_folder import run_folder
from benchmarks.launch.options import Options
from benchmarks.launch.progress import display
from benchmarks.workloads import DEFAULT
from sppo.config.workload import Workload


@dataclass(frozen=True, kw_only=True)
class PaperMeasurement(Results):
    """The flags of `paper --measure`, and the measurement."""

    measure: bool = False
    """Measure fig. 7, 10, 11 and 12 in miniature, on CPU ranks of this machine: 65 minutes on
    two quiet cores; --figures chooses. Every place is kept as it ends; --resume goes on."""
    miniature: Annotated[str, arg(metavar="WORKLOAD")] = DEFAULT
    """The workload of --measure: a name of `sppo-bench list` with CPU ranks and a device limit."""
    launches: int = 3
    """Launches of each row with --measure, interleaved."""
    measured_steps: int = 3
    """Timed steps of a launch with --measure."""
    budget: Annotated[float, arg(metavar="SECONDS")] = 4500.0
    """Seconds of one call of --measure: no place begins that is expected to end later."""

    def check_measurement_flags(self, others: Sequence[str]) -> None:
        """Refuse the flags of --measure without it, and with it the `others`. Raises UsageError."""
        inherited = {field.name for field in fields(Results)}
        own = {field.name for field in fields(PaperMeasurement)} - inherited - {"measure"}
        if self.measure:
            refuse(self, others, "--measure launches, and has --figures only")
        else:
            refuse(self, sorted(own), "it is a flag of --measure")

    def measure_figures(self, figures: Sequence[str]) -> int:
        """Measure the chosen ones of fig. 7, 10, 11 and 12.

        The exit code: 1 where a launch ended in no result, or a place is not measured. Raises
        UsageError.
        """
        from benchmarks.paper.miniature import report, result
        from benchmarks.paper.miniature.session import Clock, Session

        keys = chosen(tuple(figures), result.FIGURES, "figure to measure")
        keys = [figure for figure in result.FIGURES if figure in keys]
        workload = self._workload()
        if self.budget <= 0:
            raise UsageError(f"--budget {self.budget:g}: give positive seconds")
        options = self._options()
        with (
            usage_errors(OSError, ImportError),
            run_folder(self, workload) as directory,
            display() as shown,
        ):
            session = Session(
                base=workload,
                directory=directory,
                options=options,
                display=shown,
                clock=Clock(budget_seconds=self.budget),
            )
            measured = session.measure(keys)
        values: dict[str, Any] = {"directory": str(directory), "figures": measured}
        show(self.json, values, "\n\n".join(map(report.text, measured)))
        print(f"saved to {directory}", file=sys.stderr)
        whole = [each.figure for each in measured if not (each.missing or each.unwanted)]
        for figure in whole if self.publish and not session.broken else ():
            print(f"published in {result.publish(directory, figure)}", file=sys.stderr)
        absent = [figure for figure in keys if figure not in whole]
        if absent:
            names = ", ".join(f"fig. {figure}" for figure in absent)
            words = f"not whole: {names}; go on with --resume {directory}"
            print(words, file=sys.stderr)
        return int(bool(absent) or session.broken)

    def _workload(self) -> Workload:
        workload = arguments.find_workload(self.miniature, None)
        if workload.cluster.device != "cpu" or workload.device_memory_bytes is None:
            raise UsageError(
                f"--miniature {self.miniature}: it needs CPU ranks and a device limit; take "
                f"{DEFAULT}, or leave --miniature out"
            )
        if self.publish and self.miniature != DEFAULT:
            raise UsageError(f"--publish: only {DEFAULT} is published; leave --miniature out")
        return workload

    def _options(self) -> Options:
        """The launches of a row. Raises UsageError."""
        from benchmarks.launch.options import REFERENCE_STEPS

        with usage_errors():
            options = Options(
                launches=self.launches, measured_steps=self.measured_steps, in_turns=True
            )
        if options.steps < REFERENCE_STEPS or options.measured_steps < 1:
            raise UsageError(f"--measured-steps {self.measured_steps}: it must be at least 1")
        return options
