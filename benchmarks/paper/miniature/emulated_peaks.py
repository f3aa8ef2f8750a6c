"""Peaks of a library's settings at a place, counted by emulation: nothing is launched for them."""

from __future__ import annotations

import io
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from baselines import registry
from baselines.protocol import Misfit
from benchmarks.emulation.cache import default_cache
from benchmarks.emulation.emulator import Emulator
from benchmarks.emulation.forked.preloaded import PreloadedRanks
from benchmarks.launch.progress import Display, Lines
from benchmarks.rows.row import Configuration
from sppo.config.sizes import format_bytes, length_name
from sppo.config.workload import Workload

RANK_SECONDS = 120.0
"""The time limit of one emulated rank of a small workload."""

PeakOf = Callable[[Configuration], int | None]
"""A setting -> the peak of its fullest rank in bytes, None where its emulation has no counts."""


@contextmanager
def emulated_peaks(system: str, workload: Workload, display: Display) -> Iterator[PeakOf]:
    """Emulates settings of a system on one workload, on processes that end with the context.

    Counts of the same code come from the cache of `sppo-bench emulate`. display: gets a line of
    every setting. Raises OSError.
    """
    adapter = registry.load(system)
    with PreloadedRanks(system) as ranks, tempfile.TemporaryDirectory() as folder:
        emulator = Emulator(
            parent=Path(folder),
            time_limit_seconds=RANK_SECONDS,
            cache=default_cache(),
            progress=Lines(io.StringIO()),
            run_rank=ranks.emulate_rank,
        )

        def peak_of(configuration: Configuration) -> int | None:
            settings: Any = msgspec.convert(configuration.settings, adapter.settings_type)
            try:
                emulation = emulator.emulate(workload, system, settings)
            except Misfit:
                return None
            counts = [role.counts for role in emulation.roles]
            if not counts or any(count is None for count in counts):
                words, peak_bytes = f"{emulation.status}: {emulation.reason}", None
            else:
                peak_bytes = max(count.peak_device_bytes for count in counts if count)
                words = f"peak {format_bytes(peak_bytes)}"
            length = length_name(workload.sequence_tokens)
            display.note(
                f"{system}, {length} tokens, emulated: {configuration.settings_text}: {words}"
            )
            return peak_bytes

        yield peak_of
