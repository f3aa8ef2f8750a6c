"""Why a run is void: it stays in the history, is drawn hollow, and is never judged."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.records.record import Record


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
        if record.machine_state and record.machine_state.fault:
            return f"{launch}: {record.machine_state.fault}"
    return ""
