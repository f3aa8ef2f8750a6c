"""`sppo-bench list`: the workloads and the rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from tyro.conf import arg

from benchmarks import workload_files, workloads
from benchmarks.commands.arguments import find_workload
from benchmarks.commands.flags import Json
from benchmarks.commands.output import show
from benchmarks.reporting.text_table import Column, text_table
from benchmarks.rows.row import ROWS, Row
from sppo.config.sizes import length_name, limit_words
from sppo.config.workload import Workload


@dataclass(frozen=True, kw_only=True)
class List(Json):
    """Name the workloads and the rows.

    Example: sppo-bench list

    Example: sppo-bench list --show tiny-cpu > my.toml
    """

    show: Annotated[str | None, arg(metavar="WORKLOAD")] = None
    """Print this workload alone, as a workload file (docs/workloads.md); with --json as JSON."""

    def run(self) -> int:
        """Show workloads and rows, or one workload; the exit code. Raises UsageError."""
        if self.show is not None:
            workload = find_workload(self.show, None)
            show(self.json, workload, workload_files.text(workload).rstrip())
            return 0
        rows = [
            {"label": row.label, "slug": row.slug, "system": row.system, "reading": row.reading}
            for row in ROWS
        ]
        table = text_table(COLUMNS, list(workloads.WORKLOADS.values()))
        names = "\n".join(map(_row_words, ROWS))
        values = {"workloads": workloads.WORKLOADS, "rows": rows}
        show(self.json, values, f"{table}\n\n{MEMORY}\n\n{ROWS_ARE}\n{names}")
        return 0


def _row_words(row: Row) -> str:
    """ "  Megatron tuned (megatron-tuned), at its best"."""
    words = (f"  {row.label} ({row.slug})", row.reading, BY_NAME * row.by_name_only)
    return ", ".join(filter(None, words))


MEMORY = """\
device memory: the limit of one rank. 76.65 GiB are the 79.15 GiB of an 80 GB GPU, less 2.5 GiB for
the CUDA context and libraries. `sppo-bench limit tiny-cpu` finds the limit of tiny-cpu."""

ROWS_ARE = """\
rows of a comparison, each a system with its settings (names for --systems). A peer is shown as the
paper ran it (SPPO's degrees, full recompute), or at its best (the fastest of a measured grid):"""

BY_NAME = "only where it is named"

COLUMNS: tuple[Column[Workload], ...] = (
    ("workload", lambda workload: workload.name),
    ("model", lambda workload: workload.model.name),
    ("tokens", lambda workload: length_name(workload.sequence_tokens)),
    ("ranks", lambda workload: str(workload.cluster.ranks)),
    ("hardware", lambda workload: workload.cluster.hardware),
    ("device memory", lambda workload: limit_words(workload.device_memory_bytes)),
)
