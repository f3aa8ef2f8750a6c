"""The verdicts of `sppo-bench compare` under made noise, whose truth is known.

    python -m tests.soak.compare_simulation --output results/published/proofs/NAME.json

Noise slows a process down, in bursts, for long or by chance, and machines drift. Exits 1 if
identical code is called worse or better in over 1 % of tries, or a slow-down not worse in over 3 %.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Mapping
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.records import store
from benchmarks.regression.compare.recorded import Kind
from tests.soak.compare_tries import SETTINGS, Draws, made_pair, rates

PROCESS_SECONDS = 2.7
WINDOW_SECONDS = 0.8
REPETITION_SECONDS = 0.04
MOST_FALSE = 0.01
MOST_MISSED = 0.03

Generator = np.random.Generator
Factors = Iterator[float]
"""How many times as long as on a quiet machine the least repetition of each process takes."""


def quiet(random: Generator) -> Factors:
    """Half a per cent of jitter."""
    while True:
        yield 1 + abs(random.normal(0, 0.005))


def two_speeds(random: Generator) -> Factors:
    """A core is fast for one process and 17 % slower for the next, by chance."""
    for jitter in quiet(random):
        yield jitter * random.choice((1.0, 1.17))


def rarely_fast(random: Generator) -> Factors:
    """Only every fifth process meets a fast core."""
    for jitter in quiet(random):
        yield jitter * (1.0 if random.random() < 0.2 else 1.12)


def heavy_tail(random: Generator) -> Factors:
    """Slow-downs without a largest one: Pareto, of index 1.2."""
    while True:
        yield 1 + 0.01 * random.pareto(1.2)


def bursts(random: Generator) -> Factors:
    """Two neighbours, each idle for 4 s and busy for 2 s on average; each slows all by 35 %."""
    neighbours = [_neighbour(random) for _ in range(2)]
    for number in count(1):
        end = number * PROCESS_SECONDS
        starts = np.arange(end - WINDOW_SECONDS, end, REPETITION_SECONDS)
        busy = sum(neighbour(starts) for neighbour in neighbours)
        yield float(np.min(1 + 0.35 * busy + np.abs(random.normal(0, 0.01, len(starts)))))


def _neighbour(random: Generator) -> Callable[[Any], Any]:
    ends = np.cumsum(random.exponential(1, 400) * np.tile((4.0, 2.0), 200))

    def is_busy(times: Any) -> Any:
        return np.searchsorted(ends, times % ends[-1]) % 2

    return is_busy


def long_load(random: Generator) -> Factors:
    """Load that lasts for half a minute, on a machine that drifts by 0.3 % a process."""
    is_slow, drift = False, 0.0
    for jitter in quiet(random):
        is_slow ^= random.random() < 0.1
        drift += random.normal(0, 0.003)
        yield jitter * np.exp(drift) * (1 + (random.exponential(0.3) if is_slow else 0))


def continuous(random: Generator) -> Factors:
    """No process is undisturbed: log-normal, of 5 %."""
    while True:
        yield float(np.exp(random.normal(0, 0.05)))


NOISES: Mapping[str, Callable[[Generator], Factors]] = {
    noise.__name__.replace("_", " "): noise
    for noise in (quiet, two_speeds, rarely_fast, heavy_tail, bursts, long_load, continuous)
}


def draws(
    noise: Callable[[Generator], Factors], slower: float, seed: int
) -> Callable[[int], tuple[Draws, Draws]]:
    """Tries of pairs whose HEAD takes `slower` times as long."""

    def of_try(number: int) -> tuple[Draws, Draws]:
        factors = noise(np.random.default_rng([seed, number]))

        def pairs(kind: Kind, by: float) -> Draws:
            for index in count():
                first, second = next(factors), next(factors)
                base, head = (second, first) if index % 2 else (first, second)
                seconds = (first + second) * PROCESS_SECONDS
                yield made_pair(kind, base, head * by, seconds)

        return pairs("a/a", 1.0), pairs("a/b", slower)

    return of_try


def simulate(tries: int, names: list[str]) -> list[dict[str, Any]]:
    """One entry for each noise, truth and setting."""
    cases = []
    for seed, name in enumerate(names):
        for slower in (1.0, 1.1, 3.0):
            for setting in SETTINGS:
                case = {"noise": name, "head_slower_by": round(slower - 1, 3)}
                case |= rates(tries, setting, draws(NOISES[name], slower, seed))
                cases.append(case)
                print(case, flush=True)
    return cases


def is_wrong(case: Mapping[str, Any]) -> bool:
    """Whether false verdicts are more than they may be. Undecided is never wrong."""
    if case["head_slower_by"]:
        return bool(case["better"] + case["not_worse"] > MOST_MISSED)
    return bool(case["worse"] + case["better"] > MOST_FALSE)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tries", type=int, default=1000)
    parser.add_argument("--noises", default=",".join(NOISES))
    parser.add_argument("--output", type=Path)
    asked = parser.parse_args()
    cases = simulate(asked.tries, asked.noises.split(","))
    if asked.output:
        report = {
            "schema": "sppo-proof/1",
            "what": "verdicts of sppo-bench compare under made noise",
            "label": "simulated",
            "cases": cases,
        }
        store.save(asked.output, report)
    return int(any(map(is_wrong, cases)))


if __name__ == "__main__":
    sys.exit(main())
