"""From pytest-benchmark's JSON (`tox -e perf`) to an entry."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from benchmarks.regression.history.entry import Entry, Machine, Metric, versions_of


class Statistics(msgspec.Struct, frozen=True, kw_only=True):
    """Seconds of a benchmark's rounds."""

    min: float
    median: float


class Benchmark(msgspec.Struct, frozen=True, kw_only=True):
    """One benchmark. extra_info: what the benchmark adds, such as its size in words."""

    name: str
    stats: Statistics
    extra_info: dict[str, Any] = {}


class BenchmarkFile(msgspec.Struct, frozen=True, kw_only=True):
    """The part of pytest-benchmark's JSON that is read; its other keys are ignored.

    environment: added by `tests/perf/conftest.py`; the machine, all versions and the commit.
    """

    benchmarks: list[Benchmark]
    datetime: str
    environment: dict[str, Any] | None = None


def entry_of_benchmarks(path: Path, data: bytes) -> Entry:
    """The least time of each benchmark. Raises ValueError."""
    try:
        read = msgspec.json.decode(data, type=BenchmarkFile)
    except msgspec.ValidationError as error:
        raise ValueError(f"{path}: no pytest-benchmark file: {error}") from None
    environment = read.environment
    if environment is None:
        raise ValueError(
            f"{path}: no environment in it, so machine and versions are unknown: "
            "make the file by `tox -e perf`"
        )
    return Entry(
        kind="micro-benchmarks",
        date=read.datetime,
        commit=environment.get("commit") or "",
        dirty=bool(environment.get("dirty")),
        machine=Machine.of(environment),
        versions=versions_of(environment),
        metrics=[
            Metric(
                name=f"{bench.extra_info.get('target', bench.name)}/least_seconds",
                value=bench.stats.min,
                high=bench.stats.median,
                unit="s",
                setting=str(bench.extra_info.get("size", "")),
            )
            for bench in read.benchmarks
        ],
        source=path.name,
    )
