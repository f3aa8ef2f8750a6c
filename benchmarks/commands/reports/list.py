"""`sppo-bench list`: the workloads and the rows."""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks import workloads
from benchmarks.commands.flags import Json
from benchmarks.commands.output import show_json
from benchmarks.reporting.text_table import Column, text_table
from benchmarks.rows.row import ROWS
from sppo.config.sizes import format_bytes, length_name
from sppo.config.workload import Workload


@dataclass(frozen=True, kw_only=True)
class List(Json):
    """Name the workloads and the rows.

    Example: sppo-bench list
    """

    def run(self) -> int:
        """Show workloads and rows; the exit code."""
        import msgspec

        if self.json:
            names = {name: msgspec.to_builtins(w) for name, w in workloads.WORKLOADS.items()}
            rows = [{"label": row.label, "slug": row.slug, "system": row.system} for row in ROWS]
            show_json({"workloads": names, "rows": rows})
            return 0
        print(text_table(COLUMNS, list(workloads.WORKLOADS.values())))
        print("\nrows: " + ", ".join(f"{row.label} ({row.slug})" for row in ROWS))
        return 0


def _memory(workload: Workload) -> str:
    limit_bytes = workload.device_memory_bytes
    return "no limit" if limit_bytes is None else format_bytes(limit_bytes)


COLUMNS: tuple[Column[Workload], ...] = (
    ("workload", lambda workload: workload.name),
    ("model", lambda workload: workload.model.name),
    ("tokens", lambda workload: length_name(workload.sequence_tokens)),
    ("ranks", lambda workload: str(workload.cluster.ranks)),
    ("hardware", lambda workload: workload.cluster.hardware),
    ("device memory", _memory),
)
