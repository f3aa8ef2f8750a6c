"""`sppo-bench gpu-suite`: what to measure first on a GPU, in ten minutes, step by step."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.commands.arguments import UsageError, parent, usage_errors
from benchmarks.commands.flags import Json, RunFolder
from benchmarks.commands.output import show
from benchmarks.gpu import suite
from benchmarks.launch import resuming
from benchmarks.launch.run import new_directory
from benchmarks.reporting.text_table import Column, text_table

NAME = "gpu-suite"


@dataclass(frozen=True, kw_only=True)
class GpuSuite(Json, RunFolder):
    """Measure one GPU in a few minutes: checks, kernels, rates, whole steps, the comparison.

    Every step writes its JSON at once. A step that fails does not stop the others (docs/gpu.md).

    Example: sppo-bench gpu-suite --minutes 10
    """

    minutes: float = 10.0
    """Minutes for all steps together; each has its share, and what earlier steps have left."""
    dry_run: bool = False
    """Show the steps and their time limits, and measure nothing. It needs no GPU."""

    def run(self) -> int:
        """Run the steps, or show them; 1 if one failed. Raises UsageError."""
        if not 0 < self.minutes < 1e4:
            raise UsageError(f"--minutes {self.minutes:g}: give positive minutes, such as 10")
        with usage_errors():
            steps = suite.timed_steps(self.minutes)
        if self.dry_run:
            values = {
                "steps": [
                    {"step": each.step.name, "limit_seconds": each.limit_seconds} for each in steps
                ]
            }
            show(self.json, values, _plan_text(steps))
            return 0
        check_device()
        directory = self._folder()
        with usage_errors(), resuming.locked(directory):
            files = suite.run(directory, self.minutes, "cuda", _say)
        ends = [{"step": each.step, "status": each.status, "reason": each.reason} for each in files]
        lines = [suite.line(each) for each in files]
        show(self.json, {"directory": str(directory), "steps": ends}, "\n".join(lines))
        print(f"files of the steps: {directory}", file=sys.stderr)
        return int(any(each.status in ("failed", "timeout") for each in files))

    def _folder(self) -> Path:
        """The new folder, or that of --resume. Raises UsageError."""
        if self.resume is None:
            with usage_errors(OSError):
                return new_directory(parent(self), NAME)
        if self.output is not None:
            raise UsageError("leave --output out: --resume names the folder")
        if not self.resume.is_dir():
            raise UsageError(f"no folder {self.resume}; name one that `sppo-bench {NAME}` has made")
        return self.resume.resolve()


def check_device() -> None:
    """Raise UsageError with the cure on a machine without a CUDA device."""
    import torch

    if torch.cuda.is_available():
        return
    build = "this torch is a build without CUDA" if torch.version.cuda is None else "no driver"
    raise UsageError(
        f"no CUDA device here ({build}): run this on a GPU node with a CUDA build of torch; "
        f"`sppo-bench {NAME} --dry-run` shows the steps"
    )


def _plan_text(steps: Sequence[suite.Timed]) -> str:
    columns: tuple[Column[suite.Timed], ...] = (
        ("step", lambda each: each.step.name),
        ("limit, s", lambda each: f"{each.limit_seconds:.0f}"),
        ("what it shows", lambda each: each.step.shows),
    )
    return text_table(columns, steps)


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
