"""What one sees while launches run: bars on a terminal, else one plain line per step."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Protocol, Self, TextIO

from benchmarks.job import Progress, Status

_COLOURS = {"ok": "green", "oom": "yellow", "host_oom": "yellow", "infeasible": "yellow"}


class Display(Protocol):
    """Told by the supervisor what happens; a context, closed at the end of the run."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None: ...

    def start(self, label: str, steps: int) -> None:
        """A launch begins; `steps` is how many it will take."""
        ...

    def step(self, progress: Progress) -> None:
        """A step has ended."""
        ...

    def end(self, status: Status, reason: str, seconds: float | None) -> None:
        """The launch has ended; seconds: its median measured step."""
        ...

    def note(self, text: str) -> None:
        """Something to say between launches."""
        ...


class Lines:
    """Plain lines for logs and pipes."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self.stream = stream or sys.stderr
        self.label = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Lines need no closing."""

    def start(self, label: str, steps: int) -> None:
        self.label = label

    def step(self, progress: Progress) -> None:
        report = progress.report
        self.note(
            f"{self.label}: step {progress.step + 1}/{progress.steps} {report.phase}, "
            f"{report.tokens} tokens, {report.seconds:.3f} s, loss {report.loss:.6f}"
        )

    def end(self, status: Status, reason: str, seconds: float | None) -> None:
        self.note(f"{self.label}: {_ending(status, reason, seconds)}")

    def note(self, text: str) -> None:
        print(text, file=self.stream, flush=True)


def _ending(status: Status, reason: str, seconds: float | None) -> str:
    if seconds is not None and status == "ok":
        return f"{status}, {seconds:.3f} s a step"
    return f"{status}: {reason}" if reason else status


class Bars:
    """A rich bar per launch, on standard error; finished launches stay as lines above."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
        from rich.progress import Progress as RichProgress

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
        self.label = ""
        self.started = 0.0

    def __enter__(self) -> Self:
        self.progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.progress.stop()

    def start(self, label: str, steps: int) -> None:
        self.label = label
        self.started = time.monotonic()
        self.progress.reset(
            self.task,
            total=steps,
            description=f"{label:<30}",
            last=f"{'starting':<18}",
            visible=True,
        )

    def step(self, progress: Progress) -> None:
        report = progress.report
        last = f"{report.phase} {report.seconds:.2f} s"
        self.progress.update(self.task, completed=progress.step + 1, last=f"{last:<18}")

    def end(self, status: Status, reason: str, seconds: float | None) -> None:
        from rich.markup import escape

        colour = _COLOURS.get(status, "red")
        took = time.monotonic() - self.started
        text = escape(_ending(status, reason, seconds).removeprefix(status))
        line = f"{escape(self.label):<30} [{colour}]{status}[/{colour}]{text}"
        self.progress.update(self.task, visible=False)
        self.console.print(f"{line}  [dim]({took:.0f} s in all)[/dim]")

    def note(self, text: str) -> None:
        self.console.print(text, markup=False)


def display() -> Display:
    """Bars where standard error is a terminal, lines elsewhere."""
    return Bars() if sys.stderr.isatty() else Lines()
