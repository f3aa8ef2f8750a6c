"""`python -m benchmarks.regression`: compare this checkout's values with the expected ones."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.regression import expected, topics
from benchmarks.regression.differences import LINES, lines
from benchmarks.regression.topics import Topic


def main(arguments: Sequence[str] | None = None) -> int:
    """0 where everything is as expected, 1 where something differs, 2 for wrong input."""
    names = ", ".join(topic.name for topic in topics.TOPICS)
    parser = argparse.ArgumentParser(prog="python -m benchmarks.regression", description=__doc__)
    parser.add_argument(
        "--topics",
        metavar="NAMES",
        default="",
        help=f"by comma, whole or first words; all if not given: {names}",
    )
    parser.add_argument("--update", action="store_true", help="accept: write the files anew")
    parser.add_argument(
        "--lines", type=int, default=LINES, help="lines of a topic at most (default: %(default)s)"
    )
    parser.add_argument(
        "--expected",
        type=Path,
        metavar="DIR",
        default=expected.default_directory(),
        help="the folder of the files (default: %(default)s)",
    )
    asked = parser.parse_args(arguments)
    try:
        chosen = topics.find([name for name in asked.topics.split(",") if name])
        differ = [_differs(topic, asked.expected, asked.update, asked.lines) for topic in chosen]
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return int(any(differ) and not asked.update)


def _differs(topic: Topic, directory: Path, update: bool, most: int) -> bool:
    """Compare or rewrite one topic. Differences go to stdout, everything else to stderr."""
    obstacle = None if update else topics.obstacle(topic, directory)
    if obstacle is not None:
        print(f"{topic.name}: skipped: {obstacle}", file=sys.stderr)
        return False
    started = time.perf_counter()
    differences = (topics.update if update else topics.check)(topic, directory)
    for line in lines(topic.name, differences, most):
        print(line, flush=True)
    seconds = time.perf_counter() - started
    outcome = f"{len(differences)} differences" if differences or update else "as expected"
    written = "written, " if update else ""
    print(f"{topic.name}: {written}{outcome} ({seconds:.1f} s)", file=sys.stderr)
    return bool(differences)


if __name__ == "__main__":
    sys.exit(main())
