"""Time one target in this process, and print its measurement as one line of JSON.

    python -m benchmarks.regression.targets.timed engine-step

The process keeps to one thread and collects no garbage while the clock runs. Exits 2, with the
known names, for an unknown target.
"""

from __future__ import annotations

import argparse
import gc
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec

import benchmarks
from benchmarks.regression.targets.registry import TARGETS
from benchmarks.regression.targets.target import Measurement, Repetition, Target

WARM_UPS = 2
"""Untimed repetitions: the first ones fill caches and pools of memory."""

LEAST_REPETITIONS = 5
SECONDS = 1.0
"""Repetitions go on for so long, and at least LEAST_REPETITIONS times."""


def measure(target: Target, seconds: float = SECONDS) -> Measurement:
    """Prepare the target and time its repetitions."""
    with target.prepare() as repetition:
        for _ in range(WARM_UPS):
            repetition()
        times = _times(repetition, seconds)
    return Measurement(
        target=target.name,
        least_seconds=min(times),
        median_seconds=statistics.median(times),
        repetitions=len(times),
        package=str(Path(benchmarks.__file__).resolve().parent),
    )


def _times(repetition: Repetition, seconds: float) -> list[float]:
    """Seconds of each repetition. Garbage is collected between them, except what is there now."""
    times: list[float] = []
    gc.collect()
    gc.freeze()
    end = time.perf_counter() + seconds
    while len(times) < LEAST_REPETITIONS or time.perf_counter() < end:
        gc.collect()
        gc.disable()
        try:
            start = time.perf_counter()
            repetition()
            times.append(time.perf_counter() - start)
        finally:
            gc.enable()
    return times


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit code: 2 for an unknown target."""
    parser = argparse.ArgumentParser(prog=f"python -m {__spec__.name}", description=__doc__)
    parser.add_argument("target", help=", ".join(TARGETS))
    parser.add_argument("--seconds", type=float, default=SECONDS, help="of all repetitions")
    asked = parser.parse_args(arguments)
    if asked.target not in TARGETS:
        print(f"unknown target {asked.target!r}; known: {', '.join(TARGETS)}", file=sys.stderr)
        return 2
    print(msgspec.json.encode(measure(TARGETS[asked.target], asked.seconds)).decode())
    return 0


if __name__ == "__main__":
    sys.exit(main())
