"""A check in words: its lines for a terminal, and Markdown for a step summary."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from benchmarks.regression.check.gate import TopicResult

OTHER_VERSIONS = (
    "nothing was compared: install the versions of constraints.txt, or make values of your own: "
    "sppo-bench check --expected DIR --update"
)


def progress(result: TopicResult) -> str:
    """One topic that has ended."""
    if result.reason:
        return f"{result.topic}: {result.outcome}: {result.reason}"
    differ = f", {len(result.differences)} differ" if result.differences else ""
    return f"{result.topic}: {result.outcome}, {result.values:,} values{differ}"


def text(results: Sequence[TopicResult], most: int, accept: str) -> list[str]:
    """What changed, at most `most` lines; then the verdict and what to do."""
    from benchmarks.regression.check import gate, report

    shown = report.lines(gate.changes(results), most)
    return [*shown, _verdict(results), *([f"accept: {accept}"] if accept else ())]


def _verdict(results: Sequence[TopicResult]) -> str:
    """How many topics ended how."""
    outcomes = [result.outcome for result in results]
    if set(outcomes) <= {"skipped"}:
        return OTHER_VERSIONS
    counts = [
        f"{outcomes.count(outcome)} {outcome}"
        for outcome in ("changed", "not written", "written", "as expected", "skipped")
        if outcome in outcomes
    ]
    return f"topics: {', '.join(counts)}"


def markdown(results: Sequence[TopicResult], most: int, accept: str) -> str:
    """A table of the topics, the differences, and the command that accepts them."""
    from benchmarks.regression.check import gate, report

    rows = ["## sppo-bench check", "", "| topic | outcome | values | differ |", "|---|---|---|---|"]
    for result in results:
        outcome = f"{result.outcome}: {result.reason}" if result.reason else result.outcome
        cells = (result.topic, outcome, f"{result.values:,}", f"{len(result.differences):,}")
        rows.append(f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |")
    rows += ["", _verdict(results)]
    changed = report.lines(gate.changes(results), most)
    if changed:
        rows += ["", "```", *changed, "```"]
    if accept:
        rows += ["", f"Accept: `{accept}`"]
    return "\n".join(rows) + "\n\n"
