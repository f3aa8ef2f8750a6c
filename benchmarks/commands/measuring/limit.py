"""`sppo-bench limit`: the device memory of a workload, by its rule."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from functools import partial

from benchmarks.commands import several_nodes
from benchmarks.commands.arguments import find_workload, usage_errors, with_data
from benchmarks.commands.flags import Data, Json, Named, SeveralNodes, Tracked
from benchmarks.commands.output import show
from benchmarks.commands.run_folder import is_finished, run_folder
from benchmarks.commands.tracked import tracked
from benchmarks.launch.progress import display
from benchmarks.launch.ranks.team import Team
from benchmarks.records import store
from benchmarks.studies import limit as limits
from benchmarks.tracking import studies as tracking
from sppo.config.sizes import format_bytes
from sppo.config.workload import Workload


@dataclass(frozen=True, kw_only=True)
class Limit(Json, Tracked, SeveralNodes, Data, Named):
    """Find the device memory of a workload by its rule, with enforced launches, and save it.

    The rule: the least MiB at which Megatron-Core in SPPO's layout with full recompute still runs.

    Example: sppo-bench limit tiny-cpu
    """

    def run(self) -> int:
        """Search the limit, save and show it; the exit code. Raises UsageError."""
        workload = self.check()
        return several_nodes.on_nodes(
            self, workload, partial(self._measure, workload), asked=self.workload
        )

    def check(self) -> Workload:
        """The workload of the flags. Raises UsageError."""
        workload = with_data(find_workload(self.workload, None), self)
        return several_nodes.divided(workload, several_nodes.count_of(self))

    def _measure(self, workload: Workload, team: Team) -> int:
        """Search, save and show on this node; the exit code."""
        with (
            usage_errors(OSError),
            run_folder(self, workload) as directory,
            tracked(self, directory) as live,
            display() as shown,
        ):
            finished = is_finished(self)
            feed = tracking.LaunchFeed(run=live, series=tracking.by_system)
            result = limits.search(workload, directory, shown, feed, team)
            tracking.end_limit(live, result.trials, 0)
            path = limits.path_of(workload.name)
            if not finished:  # a newer limit may be there
                store.save(path, result)
        limit = format_bytes(result.device_memory_bytes)
        show(self.json, result, f"{workload.name}: {limit}, {result.rule}")
        print(f"saved to {path}" + (" before" if finished else ""), file=sys.stderr)
        return 0
