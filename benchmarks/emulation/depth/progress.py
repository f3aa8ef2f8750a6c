"""How far the emulations of a search have come, with the time left."""

from __future__ import annotations

import sys
import time
from contextlib import AbstractContextManager

from benchmarks.launch.progress import Lines

LINE_SECONDS = 10.0
"""Seconds between two lines where standard error is no terminal."""


class Countdown(AbstractContextManager["Countdown"]):
    """Counts `total` emulated ranks: a line now and then, for logs and pipes."""

    def __init__(self, display: Lines, label: str, total: int) -> None:
        self.display = display
        self.label = label
        self.total = total
        self.done = 0
        self.begun = self.shown = time.monotonic()

    def __exit__(self, *_: object) -> None:
        """Lines need no closing."""

    def advance(self) -> None:
        """A rank has ended."""
        self.done += 1
        now = time.monotonic()
        if now - self.shown >= LINE_SECONDS and self.done < self.total:
            self.shown = now
            self.display.note(f"{self.label}: {self.done} of {self.total}, {self.left_words(now)}")

    def left_words(self, now: float) -> str:
        """ "about 40 s left", by the mean of those that have ended."""
        left_seconds = (now - self.begun) / self.done * (self.total - self.done)
        return f"about {left_seconds:.0f} s left"


class BarCountdown(Countdown):
    """The same as a rich bar on a terminal."""

    def __init__(self, display: Lines, label: str, total: int) -> None:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeRemainingColumn,
        )

        super().__init__(display, label, total)
        self.bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=14),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("left"),
            console=Console(stderr=True, highlight=False),
            refresh_per_second=1,
            transient=True,
        )
        self.task = self.bar.add_task(label, total=total)

    def __enter__(self) -> BarCountdown:
        self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.stop()

    def advance(self) -> None:
        self.done += 1
        self.bar.advance(self.task)


def countdown(display: Lines, label: str, total: int) -> Countdown:
    """A bar where the display is a terminal's, lines elsewhere."""
    is_terminal = display.stream is sys.stderr and sys.stderr.isatty()
    return (BarCountdown if is_terminal else Countdown)(display, label, total)
