"""A check in words: its lines for a terminal, and Markdown for a step summary. Their files."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from benchmarks.commands.arguments import UsageError
from benchmarks.regression.check import gate, report
from benchmarks.regression.check.gate import TopicResult

OTHER_VERSIONS = (
    "nothing was compared: install the versions of constraints.txt, or make values of your own: "
    "sppo-bench check --expected DIR --update"
)

SKIPPED = (
    "not everything was compared: install the versions of constraints.txt, or accept that with "
    "--allow-skips"
)


def require_file(path: Path | None, *, appended: bool = False) -> None:
    """Check, before anything is measured, that a result can be written to this file.

    A file that is appended to may be a device or a pipe; another is replaced as a whole. Raises
    UsageError.
    """
    if path is None:
        return
    if not path.parent.is_dir():
        raise UsageError(f"{path}: no folder {path.parent}; make it first")
    if path.is_dir():
        raise UsageError(f"{path}: a folder; name a file")
    if path.exists() and not path.is_file() and not appended:
        raise UsageError(f"{path}: no regular file; name another")
    target = path if appended and path.exists() else path.parent
    if not os.access(target, os.W_OK):
        raise UsageError(f"{path}: cannot be written; name another file")


def progress(result: TopicResult) -> str:
    """One topic that has ended."""
    if not result.reason:
        differ = f", {len(result.differences)} differ" if result.differences else ""
        return f"{result.topic}: {result.outcome}, {result.values:,} values{differ}"
    if result.differences:
        number = len(result.differences)
        return f"{result.topic}: {result.outcome}, {number} differ; {result.reason}"
    return f"{result.topic}: {result.outcome}: {result.reason}"


def text(results: Sequence[TopicResult], most: int, accept: str) -> list[str]:
    """What changed, at most `most` lines; then the verdict and what to do."""
    shown = report.lines(gate.changes(results), most)
    reasons = [
        progress(result)
        for result in results
        if result.reason and result.outcome in ("changed", "failed")
    ]
    return [*shown, *reasons, *_verdict(results), *([f"accept: {accept}"] if accept else ())]


def _verdict(results: Sequence[TopicResult]) -> list[str]:
    """How many topics ended how; the cure where some were skipped."""
    outcomes = [result.outcome for result in results]
    if set(outcomes) <= {"skipped"}:
        return [OTHER_VERSIONS]
    counts = [
        f"{outcomes.count(outcome)} {outcome}"
        for outcome in ("changed", "failed", "not written", "written", "as expected", "skipped")
        if outcome in outcomes
    ]
    return [f"topics: {', '.join(counts)}", *([SKIPPED] if "skipped" in outcomes else ())]


def markdown(results: Sequence[TopicResult], most: int, accept: str) -> str:
    """A table of the topics, the differences, and the command that accepts them."""
    rows = ["## sppo-bench check", "", "| topic | outcome | values | differ |", "|---|---|---|---|"]
    for result in results:
        outcome = f"{result.outcome}: {result.reason}" if result.reason else result.outcome
        cells = (result.topic, outcome, f"{result.values:,}", f"{len(result.differences):,}")
        rows.append(f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |")
    rows += ["", *_verdict(results)]
    changed = report.lines(gate.changes(results), most)
    if changed:
        rows += ["", "```", *changed, "```"]
    if accept:
        rows += ["", f"Accept: `{accept}`"]
    return "\n".join(rows) + "\n\n"
