"""`sppo-bench check`: compare values without a clock with the committed expected values."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import arg

from benchmarks.commands.arguments import UsageError, usage_errors
from benchmarks.commands.regression import summary
from benchmarks.environment import describe_environment
from benchmarks.records import store
from benchmarks.regression.check import expected, gate, record, topics
from benchmarks.regression.check.gate import TopicResult
from benchmarks.regression.check.report import LINES


@dataclass(frozen=True, kw_only=True)
class Check:
    """Compare plans, simulations, emulations, real counts and calls with the expected values.

    Nothing is timed, so noise changes nothing. Every value is compared in both directions. Only
    differences are printed, at most ten lines, and then the command that accepts them. Exits 0 if
    everything is as expected, 1 if something changed, 2 for wrong input, 3 if nothing changed but
    topics were skipped, because other library versions made their values (docs/regression.md).

    Example: sppo-bench check

    Example: sppo-bench check --topics plans --update
    """

    topics: Annotated[str, arg(metavar="NAMES")] = ""
    """Names by comma, whole or first words: plans, calls, emulations, gloo, plans-named, ...; all
    if not given."""
    update: bool = False
    """Accept: write the expected values anew. Commit them with the reason."""
    full: bool = False
    """Also emulate all roles of all systems at full size: minutes, for the night."""
    expected: Annotated[Path | None, arg(metavar="DIR")] = None
    """The folder of the expected values; results/expected/ if not given."""
    allow_skips: bool = False
    """Exit 0, not 3, although topics were skipped, if at least one was compared."""
    lines: Annotated[int, arg(metavar="COUNT")] = LINES
    """Lines of differences at most."""
    json: Annotated[Path | None, arg(metavar="FILE")] = None
    """Write the result for programs to this file."""
    markdown: Annotated[Path | None, arg(metavar="FILE")] = None
    """Append the result to this file as Markdown, for $GITHUB_STEP_SUMMARY."""

    def run(self) -> int:
        """Check, and print what changed; the exit code. Raises UsageError."""
        if self.lines < 1:
            raise UsageError(f"--lines {self.lines}: it must be at least 1")
        summary.require_file(self.json)
        summary.require_file(self.markdown, appended=True)
        results = []
        with usage_errors():
            chosen = topics.find(self._names(), full=self.full)
            directory = self.expected or expected.default_directory()
            checked = gate.check(chosen, directory, update=self.update)
        with closing(checked):
            for result in checked:
                results.append(result)
                print(summary.progress(result), file=sys.stderr, flush=True)
        exit_code = gate.exit_code(results, allow_skips=self.allow_skips)
        with usage_errors(OSError):
            self._show(results, exit_code)
        return exit_code

    def _names(self) -> list[str]:
        """The topics that are named; none for all. Raises UsageError."""
        names = [name.strip() for name in self.topics.split(",") if name.strip()]
        if self.topics and not names:
            raise UsageError(f"--topics {self.topics!r} names no topic: leave it out for all")
        return names

    def _show(self, results: Sequence[TopicResult], exit_code: int) -> None:
        """Print the differences, and write the files that were asked for. Raises OSError."""
        accept = self._accept([result.topic for result in results if result.outcome == "changed"])
        for line in summary.text(results, self.lines, accept):
            print(line)
        if self.json is not None:
            environment = describe_environment()
            store.save(
                self.json,
                record.as_record(results, exit_code, accept, environment, expected=self.expected),
            )
        if self.markdown is not None:
            with self.markdown.open("a", encoding="utf-8") as stream:
                stream.write(summary.markdown(results, self.lines, accept))

    def _accept(self, changed: Sequence[str]) -> str:
        """The command that accepts the changes; "" where there are none."""
        if not changed:
            return ""
        folder = [] if self.expected is None else ["--expected", str(self.expected)]
        words = ["sppo-bench", "check", "--topics", ",".join(changed), *folder, "--update"]
        return shlex.join(words)
