"""`sppo-bench limit`: the device memory of a workload, by its rule."""

from __future__ import annotations

import sys
from dataclasses import dataclass

from benchmarks.commands.arguments import (
    find_workload,
    usage_errors,
    with_data,
)
from benchmarks.commands.flags import Data, Json, Named, RunFolder, Tracked
from benchmarks.commands.machine import check_machine
from benchmarks.commands.output import show
from benchmarks.commands.run_folder import is_finished, run_folder
from benchmarks.commands.tracked import tracked
from benchmarks.launch.progress import display
from benchmarks.records import store
from benchmarks.studies import limit as limits
from benchmarks.tracking import studies as tracking
from sppo.config.sizes import format_bytes


@dataclass(frozen=True, kw_only=True)
class Limit(Json, Tracked, RunFolder, Data, Named):
    """Find the device memory of a workload by its rule, with enforced launches, and save it.

    The rule: the least MiB at which Megatron-Core in SPPO's layout with full recompute still runs.

    Example: sppo-bench limit tiny-cpu
    """

    def run(self) -> int:
        """Search the limit, save and show it; the exit code. Raises UsageError."""
        workload = with_data(find_workload(self.workload, None), self)
        check_machine(workload, asked=self.workload)
        with (
            usage_errors(OSError),
            run_folder(self, workload) as directory,
            tracked(self, directory) as live,
            display() as shown,
        ):
            finished = is_finished(self)
            feed = tracking.LaunchFeed(run=live, series=tracking.by_system)
            result = limits.search(workload, directory, shown, feed)
            tracking.end_limit(live, result.trials, 0)
            path = limits.path_of(workload.name)
            if not finished:  # a newer limit may be there
                store.save(path, result)
        limit = format_bytes(result.device_memory_bytes)
        show(self.json, result, f"{workload.name}: {limit}, {result.rule}")
        print(f"saved to {path}" + (" before" if finished else ""), file=sys.stderr)
        return 0
