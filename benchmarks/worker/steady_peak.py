"""The measured peak of this machine: the best of all measurements, so that it does not move.

A peak is what a device reaches at its best. A busy moment only lowers a measurement. So the best of
all runs is kept in results/cache/peaks.json, and a ratio to it has the noise of the step alone.
"""

from __future__ import annotations

from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from benchmarks.environment import cpu_model, gpu_names
from benchmarks.records import store
from benchmarks.records.record import Peak
from benchmarks.worker.matmul_peak import measured_peak

SCHEMA = "sppo-peaks/1"


class KnownPeak(msgspec.Struct, frozen=True, kw_only=True):
    """The best rate so far, its description and the day of its measurement."""

    flops_per_second: float
    source: str
    date: str


class Peaks(msgspec.Struct, frozen=True, kw_only=True):
    """The best rates by device and by what was measured."""

    schema: str = SCHEMA
    peaks: dict[str, KnownPeak] = {}


def path() -> Path:
    """The file of the best rates. Remove it after a change of the machine."""
    return store.results_directory() / "cache" / "peaks.json"


def steady_peak(threads: int, device: str = "cpu", dtype: str = "float32") -> Peak | None:
    """Measure, keep the best rate of this device so far, and return it.

    None if nothing was ever measured. A file that cannot be read or written is left alone.
    """
    measured = measured_peak(threads, device, dtype)
    known = _read()
    name = cpu_model() if device == "cpu" else ", ".join(sorted(set(gpu_names())))
    key = f"{name}: {threads} thread(s), {device}, {dtype}"
    best = known.peaks.get(key)
    if measured is not None and (best is None or measured.flops_per_second > best.flops_per_second):
        best = KnownPeak(
            flops_per_second=measured.flops_per_second,
            source=measured.source,
            date=f"{datetime.now(UTC):%Y-%m-%d}",
        )
        with suppress(OSError):
            store.save(path(), Peaks(peaks={**known.peaks, key: best}))
    if best is None:
        return None
    source = f"{best.source}; the best of all runs here, {best.date}"
    return Peak(flops_per_second=best.flops_per_second, source=source, kind="measured")


def _read() -> Peaks:
    try:
        return store.read_json(path(), Peaks, SCHEMA, "delete it")
    except (OSError, store.RecordError):
        return Peaks()
