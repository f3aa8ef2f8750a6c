"""The machine beside the launches of a run, as a line under its table."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from benchmarks.records.record import Record


def lines(records: Sequence[Record]) -> list[str]:
    """Kernel readings and load of others over the rows' launches; nothing without readings."""
    rows = [record for record in records if not record.is_reference]
    states = [record.machine_state for record in rows if record.machine_state is not None]
    kernels = [seconds for state in states for seconds in state.kernel_seconds]
    if not kernels:
        return []
    middle, slowest = statistics.median(kernels), max(kernels)
    words = (
        f"machine: the kernel beside {len(states)} launches took {1e3 * min(kernels):.2f} ms at "
        f"best, {1e3 * middle:.2f} in the median, {1e3 * slowest:.2f} at worst"
    )
    taken = [state.taken_share for state in states if state.foreign_cpu_seconds is not None]
    if taken:
        words += f"; others took up to {max(taken):.1%} of the cores of a launch"
    return [words]
