"""`sppo-bench limit`: the device memory of a workload, by its rule."""

from __future__ import annotations

import sys

from benchmarks.commands.arguments import UsageError, check_machine, find_workload
from benchmarks.commands.measuring.flags import Limit
from benchmarks.records import store
from sppo.config.sizes import format_bytes


def limit(verb: Limit) -> int:
    """Search the workload's device memory by its rule, save and show it."""
    from benchmarks.launch.progress import display
    from benchmarks.studies import limit as limits

    workload = find_workload(verb.workload, None)
    check_machine(workload)
    parent = verb.output or store.results_directory() / "runs"
    try:
        with display() as shown:
            found = limits.search(workload, parent, shown)
    except (ValueError, OSError) as error:
        raise UsageError(error) from None
    path = limits.save(found)
    if verb.json:
        print(store.to_json(found).decode())
    else:
        print(f"{workload.name}: {format_bytes(found.device_memory_bytes)}, {found.rule}")
    print(f"saved to {path}", file=sys.stderr)
    return 0
