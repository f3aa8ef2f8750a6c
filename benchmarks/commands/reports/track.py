"""`sppo-bench track`: old results as wandb runs."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from tyro.conf import Positional, arg

from benchmarks.commands.arguments import UsageError, usage_errors
from benchmarks.commands.flags import Json
from benchmarks.commands.output import show
from benchmarks.file_names import printable

if TYPE_CHECKING:
    from benchmarks.tracking.folders import Found
    from benchmarks.tracking.session import Session
    from benchmarks.tracking.tracked_run import TrackedRun

NOTHING = "no results of sppo-bench in it; name a folder of results/runs/ or results/published/"


@dataclass(frozen=True, kw_only=True)
class Track(Json):
    """Log the results in folders to wandb: runs, studies, saved results, the paper's pages.

    Offline unless WANDB_MODE is set. What a wandb run has already is not logged again.

    Example: sppo-bench track results/runs/20261124-072759-tiny-cpu
    """

    directories: Annotated[Positional[tuple[Path, ...]], arg(metavar="DIR")]
    """Folders of commands, of saved results, or with several such folders; also a JSON file."""

    def run(self) -> int:
        """Log and say all; the exit code, 1 where something was not logged. Raises UsageError."""
        from benchmarks.tracking.folders import find
        from benchmarks.tracking.session import Session

        if not self.directories:
            raise UsageError("track what? name a folder, such as one of results/runs/")
        found: list[Found] = []
        for directory in self.directories:
            with usage_errors(OSError):
                if not directory.exists():
                    raise UsageError(f"no folder {printable(str(directory))}")
                here = list(find(directory.resolve()))
            if not any(item.log for item in here):
                raise UsageError(f"{printable(str(directory))}: {NOTHING}")
            found += here
        with Session() as session:
            if session.is_off:
                raise UsageError("WANDB_MODE=disabled logs nothing: unset it, or set offline")
            entries = [logged(item, session) for item in found]
        if session.error:
            print(session.error, file=sys.stderr)
        show(self.json, entries, "\n".join(map(line, entries)))
        return int(session.error is not None or any(entry["failed"] for entry in entries))


def logged(item: Found, session: Session) -> dict[str, Any]:
    """Log one thing: its place and kind, its runs, and why it is not logged ("" if it is)."""
    from benchmarks.tracking.folders import UNREADABLE

    runs: Sequence[TrackedRun] = ()
    reason, failed = "", False
    if item.log is None:
        reason = "wandb has no form for this schema"
    else:
        try:
            runs = item.log(session)
        except UNREADABLE as error:
            reason, failed = " ".join(str(error).split()) or type(error).__name__, True
        if session.error:
            reason, failed = "wandb refused it", True
    return {
        "path": printable(str(item.path)),
        "kind": item.kind,
        "runs": [run.heading.run_id for run in runs],
        "new_runs": sum(run.is_changed for run in runs),
        "new_results": sum(run.new_results for run in runs),
        "failed": failed,
        "reason": reason,
    }


def line(entry: dict[str, Any]) -> str:
    """What was done, in one line."""
    place = f"{entry['kind']} {entry['path']}"
    if entry["reason"]:
        return f"not logged: {place}: {entry['reason']}"
    if not entry["new_runs"]:
        return f"logged before: {place}: run {', '.join(entry['runs'])}"
    runs = counted(len(entry["runs"]), "wandb run")
    return f"logged: {place}: {runs}, {counted(entry['new_results'], 'new result')}"


def counted(count: int, name: str) -> str:
    """ "1 wandb run", "2 wandb runs"."""
    return f"{count} {name}{'' if count == 1 else 's'}"
