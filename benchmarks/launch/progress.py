"""The display of a run: bars on a terminal, else one plain line per step."""

from __future__ import annotations

import sys
import time
from contextlib import AbstractContextManager
from typing import TextIO, TypeAlias

from benchmarks.job import Progress, Status

_COLOURS = {"ok": "green", "oom": "yellow", "host_oom": "yellow", "infeasible": "yellow"}


class Lines(AbstractContextManager["Lines"]):
    """Plain lines for logs and pipes. A context, closed at the end of the run."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self.stream = stream or sys.stderr

    def __exit__(self, *_: object) -> None:
        """Lines need no closing."""

    def start(self, label: str, steps: int) -> None:
        """A launch of `steps` steps begins."""

    def step(self, label: str, progress: Progress) -> None:
        """A step of this launch has ended. Launches may take turns."""
        report = progress.report
        self.note(
            f"{label}: step {progress.step + 1}/{progress.steps} {report.phase}, "
            f"{report.tokens} tokens, {report.seconds:.3f} s, loss {report.loss:.6f}"
        )

    def end(self, label: str, status: Status, reason: str, seconds: float | None) -> None:
        """The launch has ended. seconds: its median measured step."""
        self.note(f"{label}: {status}{_details(status, reason, seconds)}")

    def note(self, text: str) -> None:
        """Print a line between launches."""
        print(text, file=self.stream, flush=True)


Display: TypeAlias = Lines
"""Every display has the methods of `Lines`."""


def _details(status: Status, reason: str, seconds: float | None) -> str:
    if seconds is not None and status == "ok":
        return f", {seconds:.3f} s a step"
    return f": {reason}" if reason else ""


class Bars(Lines):
    """A rich bar per launch on standard error. Finished launches stay as lines above."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
        from rich.progress import Progress as RichProgress

        super().__init__()
        self.console = Console(stderr=True, highlight=False)
        self.progress = RichProgress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=14),
            MofNCompleteColumn(),
            TextColumn("{task.fields[last]}"),
            TimeElapsedColumn(),
            console=self.console,
            refresh_per_second=1,
            transient=True,
        )
        self.task = self.progress.add_task("preparing", total=None, last="", visible=False)
        self.started: dict[str, float] = {}

    def __enter__(self) -> Bars:
        self.progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.progress.stop()

    def start(self, label: str, steps: int) -> None:
        super().start(label, steps)
        self.started[label] = time.monotonic()
        description, last = f"{label:<30}", f"{'starting':<18}"
        self.progress.reset(
            self.task, total=steps, description=description, last=last, visible=True
        )

    def step(self, label: str, progress: Progress) -> None:
        report = progress.report
        last = f"{report.phase} {report.seconds:.2f} s"
        self.progress.update(
            self.task,
            description=f"{label:<30}",
            completed=progress.step + 1,
            total=progress.steps,
            last=f"{last:<18}",
            visible=True,
        )

    def end(self, label: str, status: Status, reason: str, seconds: float | None) -> None:
        from rich.markup import escape

        colour = _COLOURS.get(status, "red")
        took = time.monotonic() - self.started.pop(label, time.monotonic())
        details = escape(_details(status, reason, seconds))
        line = f"{escape(label):<30} [{colour}]{status}[/{colour}]{details}"
        self.progress.update(self.task, visible=False)
        self.console.print(f"{line}  [dim]({took:.0f} s in all)[/dim]")

    def note(self, text: str) -> None:
        self.console.print(text, markup=False)


def display() -> Display:
    """Bars where standard error is a terminal, lines elsewhere."""
    return Bars() if sys.stderr.isatty() else Lines()
