"""`sppo-bench list` and `sppo-bench env`: what there is to run, and where."""

from __future__ import annotations

from benchmarks import workloads
from benchmarks.commands.output import show_json
from benchmarks.commands.reports.flags import Env, List
from benchmarks.rows.row import ROWS
from sppo.config import sizes
from sppo.config.sizes import format_bytes
from sppo.config.workload import Workload


def list_workloads(verb: List) -> int:
    """Workloads and rows."""
    import msgspec
    from tabulate import tabulate

    if verb.json:
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


def environment(verb: Env) -> int:
    """This machine."""
    from benchmarks.environment import describe_environment

    described = describe_environment()
    if verb.json:
        show_json(described)
        return 0
    for name, value in described.items():
        if isinstance(value, dict):
            value = ", ".join(f"{key} {item}" for key, item in value.items())
        print(f"{name + ':':<14}{value}")
    return 0
