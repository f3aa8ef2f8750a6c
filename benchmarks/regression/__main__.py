"""`python -m benchmarks.regression`: compare this checkout's values with the expected ones."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro
from tyro.conf import FlagCreatePairsOff, arg

from benchmarks.regression import topics
from benchmarks.regression.differences import LINES, lines
from benchmarks.regression.expected import default_directory
from benchmarks.regression.topics import Topic


@dataclass(frozen=True, kw_only=True)
class Options:
    """Compare this checkout's values with the expected ones."""

    topics: Annotated[str, arg(metavar="NAMES")] = ""
    """Names by comma, whole or first words; all if not given: plans, emulations, gloo, or the name
    of one file."""
    update: bool = False
    """Accept: write the files anew."""
    lines: int = LINES
    """Lines of a topic at most."""
    expected: Annotated[Path, arg(metavar="DIR")] = field(default_factory=default_directory)
    """The folder of the files."""


def main(arguments: Sequence[str] | None = None) -> int:
    """0 where everything is as expected, 1 where something differs, 2 for wrong input."""
    program = "python -m benchmarks.regression"
    options = tyro.cli(Options, prog=program, args=arguments, config=(FlagCreatePairsOff,))
    try:
        chosen = topics.find([name for name in options.topics.split(",") if name])
        differ = [_differs(topic, options) for topic in chosen]
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return int(any(differ) and not options.update)


def _differs(topic: Topic, options: Options) -> bool:
    """Compare or rewrite one topic. Differences go to stdout, everything else to stderr."""
    obstacle = None if options.update else topics.obstacle(topic, options.expected)
    if obstacle is not None:
        print(f"{topic.name}: skipped: {obstacle}", file=sys.stderr)
        return False
    started = time.perf_counter()
    compare = topics.update if options.update else topics.check
    differences = compare(topic, options.expected)
    for line in lines(topic.name, differences, options.lines):
        print(line, flush=True)
    seconds = time.perf_counter() - started
    outcome = f"{len(differences)} differences" if differences or options.update else "as expected"
    written = "written, " if options.update else ""
    print(f"{topic.name}: {written}{outcome} ({seconds:.1f} s)", file=sys.stderr)
    return bool(differences)


if __name__ == "__main__":
    sys.exit(main())
