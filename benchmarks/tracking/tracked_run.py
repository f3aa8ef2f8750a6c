"""One wandb run that grows: opened at its first new result, continued after a stop."""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.reporting.text_table import Column, Item
from benchmarks.tracking.sent import Sent
from benchmarks.tracking.session import Session, wandb_directory

PROJECT = "sppo-bench"

PREFIXES = ("result", "measured", "emulated", "simulated", "paper")
"""Beginnings of names in a step. The summary has the best alone, not the last."""

FAILED, INTERRUPTED = 1, 130


@dataclass(frozen=True, kw_only=True)
class Cells:
    """A table: titles, and rows of text and numbers."""

    titles: Sequence[str]
    rows: Sequence[Sequence[Any]]


def cells(columns: Sequence[Column[Item]], items: Sequence[Item], label: str) -> Cells:
    """A printed table, with a column `label` where it has none."""
    titles = [title for title, _ in columns]
    rows = [[cell(item) for _, cell in columns] for item in items]
    if "label" not in titles:
        titles, rows = [*titles, "label"], [[*row, label] for row in rows]
    return Cells(titles=titles, rows=rows)


@dataclass(frozen=True, kw_only=True)
class Picture:
    """An image file."""

    path: Path


@dataclass(frozen=True, kw_only=True)
class Heading:
    """The head of a wandb run. run_id: the same whenever the same content is logged."""

    run_id: str
    name: str
    job_type: str
    tags: Sequence[str]
    config: Mapping[str, Any] = field(default_factory=dict)


def content_id(*parts: object) -> str:
    """An id that depends on these parts alone."""
    return hashlib.sha256("/".join(map(str, parts)).encode()).hexdigest()[:16]


class TrackedRun:
    """A wandb run of a folder. directory: gives the group its name, and gets the files of wandb.

    A result that the run has already is not logged again. A summary that differs from the run's is
    written anew. is_off: nothing is logged at all.
    new_results, is_changed: what this command has logged, and whether it has opened the run.
    """

    def __init__(
        self, session: Session, heading: Heading, directory: Path, *, is_off: bool = False
    ) -> None:
        self.session = session
        self.heading = heading
        self.directory = directory
        self.is_off = is_off
        self.sent = Sent(folder=wandb_directory(directory), run_id=heading.run_id)
        self.new_results = 0
        self.is_changed = False
        self._run: Any = None
        self._known_to_server = 0

    def result(self, name: str, values: Mapping[str, Any], *, by_values: bool = False) -> None:
        """Log one step. name: unique in the run, and the same after a stop. None is left out.

        Values are text, numbers, Cells or Pictures. by_values: other values of the same name, as
        after a launch that was measured again, are a further step.
        """
        if by_values:
            name = f"{name}, {content_id(*sorted(values.items()))}"
        if self.is_off or self.session.is_off or (name in self.sent and self.sent.is_certain):
            return
        self.session.call(lambda wandb: self._log(wandb, name, values), self.directory)

    def end(self, summary: Mapping[str, Any], *, exit_code: int) -> None:
        """Write the summary and close the run. A run with this summary, and nothing new, stays."""
        if self.is_off or self.session.is_off:
            return
        if self._run is None and self.sent.has_end(_end_digest(summary, exit_code)):
            return
        self.session.call(lambda wandb: self._end(wandb, summary, exit_code), self.directory)

    def stop(self, exit_code: int) -> None:
        """Close the run without its end: a further command may go on with it."""
        if self._run is not None:
            self.session.call(lambda _: self._finish(exit_code), self.directory)

    def _log(self, wandb: Any, name: str, values: Mapping[str, Any]) -> None:
        self._open(wandb)
        if name in self.sent:
            return
        if self._known_to_server > 0:
            self._known_to_server -= 1
        else:
            present = {key: value for key, value in values.items() if value is not None}
            media = {key: _media(wandb, value) for key, value in present.items()}
            self._run.log(media, step=self.sent.steps, commit=True)
            self.new_results += 1
        self.sent.add(name)

    def _open(self, wandb: Any) -> None:
        """Begin the run, or continue the run of this id."""
        if self._run is not None:
            return
        _make_folder(self.sent.folder)
        heading = self.heading
        self._run = wandb.init(
            id=heading.run_id,
            resume="allow",
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            group=os.environ.get("WANDB_RUN_GROUP", self.directory.name),
            name=heading.name,
            job_type=heading.job_type,
            tags=list(heading.tags),
            config=dict(heading.config),
            allow_val_change=True,
            dir=os.environ.get("WANDB_DIR", str(self.directory)),
            mode=os.environ.get("WANDB_MODE", "offline"),
            reinit="finish_previous",
            settings=wandb.Settings(
                console="off",
                silent=True,
                save_code=False,
                disable_git=True,
                disable_code=True,
                x_disable_stats=True,
                x_disable_meta=True,
            ),
        )
        for prefix in PREFIXES:
            self._run.define_metric(f"{prefix}/*", summary="none")
        self.is_changed = True
        self.sent.reopen()
        self.sent.trust_server(self._run.starting_step)
        self._known_to_server = max(0, self._run.starting_step - self.sent.steps)

    def _end(self, wandb: Any, summary: Mapping[str, Any], exit_code: int) -> None:
        self._open(wandb)
        present = {key: value for key, value in summary.items() if value is not None}
        gone = {key: None for key in self.sent.summary if key not in present}
        self._run.summary.update({**gone, **present})
        self.sent.add_end(_end_digest(summary, exit_code), list(present))
        self._finish(exit_code)

    def _finish(self, exit_code: int) -> None:
        run, self._run = self._run, None
        run.finish(exit_code=exit_code)
        self.sent.close()


def _end_digest(summary: Mapping[str, Any], exit_code: int) -> str:
    return content_id(*sorted(summary.items()), exit_code)


def _make_folder(folder: Path) -> None:
    """Raises OSError: wandb itself would take a temporary folder, which nobody finds."""
    folder.mkdir(parents=True, exist_ok=True)
    if not os.access(folder, os.W_OK):
        raise PermissionError(f"{folder} is not writable: name a folder by WANDB_DIR")


def _media(wandb: Any, value: Any) -> Any:
    if isinstance(value, Cells):
        rows = [list(row) for row in value.rows]
        return wandb.Table(columns=list(value.titles), data=rows)
    if isinstance(value, Picture):
        return wandb.Image(str(value.path))
    return value


@contextmanager
def live_run(heading: Heading, directory: Path, *, is_off: bool) -> Iterator[TrackedRun]:
    """A run that is logged while a command goes on. The caller ends it.

    An error of wandb is said at the end, in one line on standard error.
    """
    with Session() as session:
        run = TrackedRun(session, heading, directory, is_off=is_off)
        exit_code = FAILED
        try:
            yield run
        except KeyboardInterrupt:
            exit_code = INTERRUPTED
            raise
        finally:
            run.stop(exit_code)
            if session.error:
                print(session.error, file=sys.stderr)
