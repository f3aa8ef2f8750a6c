"""`sppo-bench longest`: check what was asked, search, save and show it."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated

from tyro.conf import Positional, arg

from benchmarks.commands import arguments, several_nodes
from benchmarks.commands.arguments import UsageError, usage_errors
from benchmarks.commands.flags import Data, SeveralNodes, Tracked
from benchmarks.commands.output import show
from benchmarks.commands.run_folder import is_finished, run_folder
from benchmarks.commands.tracked import tracked
from benchmarks.launch.gate import exit_code
from benchmarks.launch.options import Options
from benchmarks.launch.progress import display
from benchmarks.launch.ranks.team import Team
from benchmarks.records import store
from benchmarks.records.machine_errors import records_so_far
from benchmarks.rows.row import Row, find
from benchmarks.studies import longest as search
from benchmarks.studies import longest_result
from benchmarks.tracking import studies as tracking
from benchmarks.workloads import DEFAULT
from sppo.config.sizes import parse_tokens
from sppo.config.workload import Workload


@dataclass(frozen=True, kw_only=True)
class LongestRequest:
    """A checked `longest` command. at_most_tokens: None for a multiple of the own length."""

    workload: Workload
    rows: Sequence[Row]
    options: Options
    at_most_tokens: int | None


@dataclass(frozen=True, kw_only=True)
class Longest(Tracked, SeveralNodes, Data):
    """Find the longest sequence each row can train under the device limit, and save it.

    Every launch runs under the enforced limit, up to its accounted step. SPPO plans each length. A
    tuned row is the best of its library's whole grid; points of least memory come first.

    Example: sppo-bench longest tiny-cpu --systems sppo,megatron-same-layout
    """

    workload: Annotated[Positional[str], arg(metavar="WORKLOAD")] = DEFAULT
    """A name of `sppo-bench list`, or a workload file; the search starts at its own length."""
    systems: Annotated[tuple[str, ...], arg(metavar="NAMES")] = ()
    """Rows, by comma or space, as for `run`, and the same ones if not given."""
    device_memory: Annotated[str | None, arg(metavar="SIZE")] = None
    """Memory of one rank's device: 160MiB or 79.15GiB; the workload's own if not given."""
    at_most: Annotated[str | None, arg(metavar="TOKENS")] = None
    """The longest length to try, such as 64K; 8 times the workload's own length if not given."""
    time_limit: float | None = None
    """Seconds of one launch; a length that takes longer counts as one that does not fit. Derived
    from the plan or the work if not given."""
    json: bool = False
    """The rows as JSON on standard output."""

    def run(self) -> int:
        """Search every row; what ends in no result exits 1 and is not published.

        Raises UsageError.
        """
        request = self.check()
        return several_nodes.on_nodes(
            self, request.workload, partial(self._measure, request), asked=self.workload
        )

    def check(self) -> LongestRequest:
        """The search of the flags. Raises UsageError."""
        workload = arguments.find_workload(self.workload, self.device_memory)
        workload = arguments.with_data(workload, self)
        workload = several_nodes.divided(workload, several_nodes.count_of(self))
        if workload.device_memory_bytes is None:
            raise UsageError(
                f"{workload.name} has no device limit, so no longest: give --device-memory SIZE"
            )
        with usage_errors(ImportError):
            rows = find(arguments.names(self.systems))
            arguments.check_time_limit(self.time_limit)
            options = Options(
                launches=1, warmup_steps=0, measured_steps=0, time_limit_seconds=self.time_limit
            )
            at_most_tokens = None if self.at_most is None else parse_tokens(self.at_most)
        return LongestRequest(
            workload=workload, rows=rows, options=options, at_most_tokens=at_most_tokens
        )

    def _measure(self, request: LongestRequest, team: Team) -> int:
        """Search, save and show on this node; the exit code."""
        with (
            usage_errors(OSError, ImportError),
            run_folder(self, request.workload) as directory,
            tracked(self, directory) as live,
            display() as shown,
        ):
            finished = is_finished(self)
            result, done = search.search(
                request.workload,
                request.rows,
                directory,
                request.options,
                shown,
                request.at_most_tokens,
                on_trial=tracking.TrialFeed(run=live),
                team=team,
            )
            path = store.save(directory / "longest.json", result)
            code = exit_code(done)
            tracking.end_longest(live, result.rows, code)
        published = longest_result.path_of(result.workload, result.device_memory_bytes)
        with records_so_far(directory):
            lost = longest_result.lost_rows(result, published)
            newer = finished and published.exists()
            if code == 0 and not lost and not newer:
                path = store.save(published, result)
        if lost:
            print(f"not published: {published.name} has {', '.join(lost)} too", file=sys.stderr)
        show(self.json, result.rows, longest_result.text(result))
        print(f"\nsaved to {path}; records: {directory}", file=sys.stderr)
        return code
