"""`sppo-bench list`: what there is to run."""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks import workloads
from benchmarks.commands.flags import Json
from benchmarks.commands.output import show_json
from benchmarks.rows.row import ROWS
from sppo.config import sizes
from sppo.config.sizes import format_bytes
from sppo.config.workload import Workload


@dataclass(frozen=True, kw_only=True)
class List(Json):
    """Name the workloads and the rows.

    Example: sppo-bench list
    """

    def run(self) -> int:
        """Show workloads and rows; the exit code."""
        import msgspec
        from tabulate import tabulate

        if self.json:
            names = {name: msgspec.to_builtins(w) for name, w in workloads.WORKLOADS.items()}
            rows = [{"label": row.label, "slug": row.slug, "system": row.system} for row in ROWS]
            show_json({"workloads": names, "rows": rows})
            return 0
        lines = [
            (
                workload.name,
                workload.model.name,
                sizes.length_name(workload.sequence_tokens),
                workload.cluster.ranks,
                workload.cluster.hardware,
                _memory(workload),
            )
            for workload in workloads.WORKLOADS.values()
        ]
        headers = ("workload", "model", "tokens", "ranks", "hardware", "device memory")
        print(tabulate(lines, headers=headers, tablefmt="github", disable_numparse=True))
        print("\nrows: " + ", ".join(f"{row.label} ({row.slug})" for row in ROWS))
        return 0


def _memory(workload: Workload) -> str:
    limit_bytes = workload.device_memory_bytes
    return "no limit" if limit_bytes is None else format_bytes(limit_bytes)
