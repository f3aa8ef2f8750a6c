"""The wandb run of a study, live while its command goes on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.commands.flags import Tracked
from benchmarks.launch import run_file
from benchmarks.tracking import studies
from benchmarks.tracking.tracked_run import TrackedRun, live_run


@contextmanager
def tracked(command: Tracked, directory: Path, *, is_study: bool = True) -> Iterator[TrackedRun]:
    """The run of the study that a command measures in this folder, of `run_folder`.

    With --no-wandb, and where it is no study, nothing is logged.
    """
    heading = studies.heading(run_file.read(directory), directory)
    with live_run(heading, directory, is_off=command.no_wandb or not is_study) as run:
        yield run
