"""`sppo-bench compare`: two commits timed in turns, or two run folders side by side."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import msgspec
from tyro.conf import Positional, arg

from benchmarks.commands.arguments import UsageError, chosen, names, usage_errors
from benchmarks.commands.flags import Json
from benchmarks.commands.output import show
from benchmarks.commands.regression.amounts import parse_seconds, parse_share
from benchmarks.commands.regression.summary import require_file
from benchmarks.environment import describe_environment
from benchmarks.launch.run import new_directory
from benchmarks.records import store
from benchmarks.regression.compare import recorded, report
from benchmarks.regression.compare.measuring import NoTargetError, check
from benchmarks.regression.compare.recorded import Header
from benchmarks.regression.compare.run_folders import join
from benchmarks.regression.compare.session import Measured, Session, judge, lost_verdicts
from benchmarks.regression.compare.trees import Tree, TreeError, two_trees
from benchmarks.regression.compare.verdict import Verdict, false_calls_each
from benchmarks.regression.exit_codes import MARGIN
from benchmarks.regression.targets.registry import DEFAULT, JOBS, TARGETS


@dataclass(frozen=True, kw_only=True)
class Compare(Json):
    """Time two commits in turns until it is certain whether HEAD is slower than BASE.

    Every time is a fresh process in a worktree of its commit. The machine's own spread is measured
    first. Exit codes: 0 not worse, 1 worse, 2 wrong input, 3 undecided.

    Example: sppo-bench compare main . --targets engine-step,planning --budget 5m

    Example: sppo-bench compare results/runs/DIR_A results/runs/DIR_B
    """

    base: Annotated[Positional[str | None], arg(metavar="BASE")] = None
    """The commit to compare with, or a run folder."""
    head: Annotated[Positional[str], arg(metavar="HEAD")] = "."
    """The commit that may be slower, or a second run folder; the checkout with all its changes if
    "." or not given."""
    targets: Annotated[tuple[str, ...], arg(metavar="NAMES")] = ()
    """Targets by comma: engine-step, planning, emulating (these if not given); attention,
    stage-forward, stage-backward, simulating, record-writing; job-sppo, job-megatron,
    job-deepspeed, job-native."""
    budget: Annotated[str, arg(metavar="TIME")] = "10m"
    """Time for all pairs: 90s, 10m or 1h. Every target has an equal part of what is left."""
    margin: Annotated[str | None, arg(metavar="PERCENT")] = None
    """Slower by less than this is not worse: 3% if not given. Three times the A/A spread counts
    where it is larger."""
    output: Annotated[Path | None, arg(metavar="DIR")] = None
    """Folder in which the comparison's folder is made; results/runs/ if not given."""
    markdown: Annotated[Path | None, arg(metavar="FILE")] = None
    """Also append the table to this file, such as $GITHUB_STEP_SUMMARY."""
    judge: Annotated[Path | None, arg(metavar="DIR")] = None
    """Measure nothing: the verdict of the pairs that this folder of an earlier comparison has."""

    def run(self) -> int:
        """Compare, show; the exit code. Raises UsageError."""
        require_file(self.markdown, appended=True)
        budget_seconds = parse_seconds(self.budget)
        asked_margin = None if self.margin is None else parse_share(self.margin)
        if self.judge is not None:
            if self.base is not None:
                raise UsageError("--judge reads a folder's pairs: leave BASE and HEAD out")
            return self._judge(self.judge, asked_margin)
        margin = asked_margin or MARGIN
        if self.base is None:
            raise UsageError("compare needs BASE: a commit such as main, or a run folder")
        if self.base != "." and self.head != "." and _are_folders(self.base, self.head):
            return self._join(Path(self.base), Path(self.head), margin)
        return self._time(self.base, margin, budget_seconds)

    def _time(self, base: str, margin: float, budget_seconds: float) -> int:
        asked = self._targets()
        with usage_errors(TreeError), two_trees(base, self.head) as trees:
            for tree in trees:
                if tree.dirty:
                    _note(f"{tree.words} is compared as it is")
            left_out = self._without(trees[0], asked)
            if len(left_out) == len(asked):
                raise UsageError(f"{trees[0].words} has none of the targets: name a later commit")
            lost = self._without(trees[1], [name for name in asked if name not in left_out])
            targets = [name for name in asked if name not in left_out and name not in lost]
            header = Header(
                base=trees[0].words,
                head=trees[1].words,
                margin=margin,
                targets=targets,
                false_calls=false_calls_each(len(targets)),
                left_out=left_out,
                lost=lost,
                environment=describe_environment(),
            )
            directory = self._directory()
            recorded.write_header(directory, header)
            measured = Measured(base=trees[0], head=trees[1], directory=directory)
            session = Session(
                next_pair=measured, margin=margin, false_calls=header.false_calls, note=_note
            )
            with ExitStack() as undo:
                undo.callback(_note, f"pairs so far: {directory}")
                verdicts = session.compare(targets, budget_seconds) | lost_verdicts(header)
                undo.pop_all()
        return self._show(directory, header, verdicts)

    def _targets(self) -> list[str]:
        known = [*TARGETS, *JOBS]
        if self.targets and not names(self.targets):
            raise UsageError(f"--targets names no target; known: {', '.join(known)}")
        return chosen(self.targets, known, "target") if self.targets else list(DEFAULT)

    def _without(self, tree: Tree, targets: Sequence[str]) -> dict[str, str]:
        """Check the targets in a tree; those that the tree lacks, and why.

        Raises TreeError, and UsageError for a lacking target that was asked for by name.
        """
        lacking = {}
        for name in targets:
            try:
                check(tree, name)
            except NoTargetError as error:
                if self.targets:
                    raise UsageError(f"{error}: leave it out of --targets") from None
                lacking[name] = str(error)
                _note(f"{name}: {error}")
        return lacking

    def _directory(self) -> Path:
        """A new folder for the pairs. Raises UsageError."""
        with usage_errors(OSError):
            parent = self.output or store.results_directory() / "runs"
            return new_directory(parent, "compare")

    def _judge(self, directory: Path, margin: float | None) -> int:
        header, done = recorded.read(directory)
        header = msgspec.structs.replace(header, margin=margin or header.margin)
        with usage_errors():
            verdicts = judge(done, header)
        return self._show(directory, header, verdicts)

    def _show(self, directory: Path, header: Header, verdicts: dict[str, Verdict]) -> int:
        data = report.commits_data(str(directory), header, verdicts)
        self._print(report.of_commits(header, verdicts), data)
        _note(f"\npairs: {directory}")
        return report.exit_code(each.outcome for each in verdicts.values())

    def _join(self, base: Path, head: Path, margin: float) -> int:
        joined = join(base, head, margin)
        self._print(report.of_folders(joined), report.folders_data(joined))
        return report.exit_code(row.outcome for row in joined.rows)

    def _print(self, page: str, data: dict[str, object]) -> None:
        """Show, then append to the file: a full disk costs no verdict."""
        show(self.json, data, page)
        if self.markdown is not None:
            with usage_errors(OSError), self.markdown.open("a", encoding="utf-8") as stream:
                stream.write(page + "\n\n")


def _note(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _are_folders(*names: str) -> bool:
    return all(Path(name).is_dir() for name in names)
