"""Why a run is void: it stays in the history, is drawn hollow, and is never judged."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.records.machine import SLOWED_CLOCKS, MachineState
from benchmarks.records.record import Record
from benchmarks.records.timing import THROTTLED_SHARE


def void_reason(records: Sequence[Record]) -> str:
    """The first reason that makes the whole run void; "" for a good run.

    Losses that differ from the reference's, retries of CUDA's allocator within measured steps,
    throttling, and other processes on the GPUs.
    """
    for record in records:
        launch = f"{record.row}, launch {record.launch}"
        if record.status == "mismatch":
            return f"{launch}: losses differ: {record.reason or 'no reason given'}"
        retries = sum(memory.allocation_retries or 0 for memory in record.memory)
        if retries:
            return f"{launch}: CUDA's allocator emptied its cache {retries} times in timed steps"
        reason = _of_machine(record.machine_state)
        if reason:
            return f"{launch}: {reason}"
    return ""


def _of_machine(state: MachineState | None) -> str:
    if state is None:
        return ""
    slowed = [reason for reason in state.gpu_clock_reasons if reason in SLOWED_CLOCKS]
    if slowed:
        return f"GPU clocks were lowered: {', '.join(slowed)}"
    if state.foreign_gpu_processes:
        return f"up to {state.foreign_gpu_processes} other process(es) on a GPU"
    if state.throttled_share > THROTTLED_SHARE:
        return f"no CPU quota for {state.throttled_share:.0%} of the timed steps"
    if state.thermal_events:
        return f"the processor was too hot {state.thermal_events} times"
    return ""
