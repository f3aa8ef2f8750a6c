"""How far the emulations of a search have come, with the time left."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

from benchmarks.launch.progress import Lines

LINE_SECONDS = 10.0
"""Seconds between two lines where standard error is no terminal."""


@contextmanager
def countdown(display: Lines, label: str, total: int) -> Iterator[Callable[[], None]]:
    """Counts `total` emulated ranks; a call of what it gives says that one has ended.

    A bar where the display is a terminal's, lines elsewhere.
    """
    is_terminal = display.stream is sys.stderr and sys.stderr.isatty()
    with bar(label, total) if is_terminal else lines(display, label, total) as advance:
        yield advance


@contextmanager
def lines(display: Lines, label: str, total: int) -> Iterator[Callable[[], None]]:
    """A line now and then, with the time left by the mean of those that have ended."""
    begun = shown = time.monotonic()
    done = 0

    def advance() -> None:
        nonlocal shown, done
        done += 1
        now = time.monotonic()
        if now - shown >= LINE_SECONDS and done < total:
            shown = now
            left_seconds = (now - begun) / done * (total - done)
            display.note(f"{label}: {done} of {total}, about {left_seconds:.0f} s left")

    yield advance


@contextmanager
def bar(label: str, total: int) -> Iterator[Callable[[], None]]:
    """A rich bar on the terminal of standard error."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    with Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=14),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("left"),
        console=Console(stderr=True, highlight=False),
        refresh_per_second=1,
        transient=True,
    ) as progress:
        yield partial(progress.advance, progress.add_task(label, total=total))
