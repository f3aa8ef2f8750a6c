"""Entries of a history made by hand."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from benchmarks.regression.history.entry import Entry, Machine, Metric

MACHINE = Machine(cpu_model="a processor", cores=2, memory_gib=24)
OTHER_MACHINE = Machine(cpu_model="another", cores=2, memory_gib=24)
VERSIONS = {"python": "3.11", "torch": "2.13.0"}


def metric(value: float, name: str = "tiny-cpu-136MiB/sppo/step_seconds", **changes: Any) -> Metric:
    values: dict[str, Any] = {"name": name, "value": value, "unit": "s", "setting": "4,096 tokens"}
    return Metric(**{**values, **changes})


def entry(number: int, *metrics: Metric, **changes: Any) -> Entry:
    """The entry of commit `number`, which was measured an hour after the commit."""
    day = f"2026-{1 + number // 28:02}-{1 + number % 28:02}"
    values: dict[str, Any] = {
        "kind": "run",
        "date": f"{day}T01:00:00Z",
        "commit": f"{number:040x}"[::-1],
        "committed": f"{day}T00:00:00Z",
        "machine": MACHINE,
        "versions": VERSIONS,
        "metrics": list(metrics),
    }
    return Entry(**{**values, **changes})


def steps(seconds: Sequence[float], **changes: Any) -> list[Entry]:
    """One entry a commit with these step times."""
    return [entry(number, metric(value), **changes) for number, value in enumerate(seconds)]
