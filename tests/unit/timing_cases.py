"""Launches with chosen step times beside a chosen machine, for the tests of timing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from benchmarks.records.machine import MachineState
from benchmarks.records.record import Record
from tests.unit.records_factory import record, step

LABELS = {"sppo": "SPPO", "megatron": "Megatron tuned", "deepspeed": "DeepSpeed Ulysses"}


def machine(**changes: Any) -> MachineState:
    """A quiet machine of two cores, both of them wanted."""
    values: dict[str, Any] = {
        "cores": 2,
        "wanted_cores": 2,
        "kernel_before_seconds": 0.003,
        "kernel_after_seconds": 0.00305,
        "window_seconds": 10.0,
        "foreign_cpu_seconds": 0.1,
        "stolen_cpu_seconds": 0.0,
    }
    return MachineState(**{**values, **changes})


QUIET = machine()
BUSY = machine(foreign_cpu_seconds=6.0)


def launch(
    system: str, number: int, seconds: Sequence[float], state: MachineState | None = QUIET
) -> Record:
    """One ok launch with these measured steps."""
    return record(
        system=system,
        row=LABELS[system],
        launch=number,
        steps=[step(phase="warm-up"), *(step(seconds=value) for value in seconds)],
        machine_state=state,
    )


def around(median: float) -> list[float]:
    """Five steps of a quiet launch."""
    return [median * factor for factor in (0.99, 1.0, 1.01, 1.0, 0.995)]


def run_of(
    medians: dict[str, Sequence[float]], states: Sequence[MachineState | None] | None = None
) -> list[Record]:
    """Launches of each system by their medians, in the order of an interleaved run."""
    count = max(len(values) for values in medians.values())
    given = states or [QUIET] * count
    return [
        launch(system, number + 1, around(values[number]), given[number])
        for number in range(count)
        for system, values in medians.items()
        if number < len(values)
    ]
