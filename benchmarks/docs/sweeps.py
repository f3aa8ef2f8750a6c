"""Tables of published sweeps, of as many systems as were measured."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from operator import itemgetter
from typing import Any

from benchmarks.docs.markdown import factor, table
from benchmarks.docs.published import Document, median_step, origin, read
from benchmarks.reporting.text_table import interval

SYSTEMS = {
    "deepspeed": "DeepSpeed",
    "megatron": "Megatron tuned",
    "native": "PyTorch native",
    "sppo": "SPPO",
}
"""The systems of a table, by the name of their column."""


def sweep(name: str, quantity: str) -> str:
    """Step times of the systems of tiny-cpu, by the swept quantity."""
    return sweep_table(read(f"sweeps/{name}"), quantity)


def sweep_table(document: Document, quantity: str) -> str:
    """A line a value, with the step of each measured system."""
    measured = {row["system"] for row in document["values"][0]["rows"]}
    columns: dict[str, Callable[[Any], str]] = {quantity: itemgetter("label")}
    for system, name in SYSTEMS.items():
        if system in measured:
            columns[f"{name}, step s"] = partial(_step, system)
    columns["speed of SPPO over the best peer"] = speed_over_peers
    return table(columns, document["values"]) + origin(document)


def _step(system: str, value: Document) -> str:
    return median_step(next(row for row in value["rows"] if row["system"] == system))


def speed_over_peers(value: Document) -> str:
    """Over the fastest peer; no number where the times of a row are unsettled."""
    rows = [row for row in value["rows"] if row["system"] in SYSTEMS]
    if any(row.get("timing_reason") and not row["sppo_speed_up"] for row in rows):
        return "unsettled"
    claimed = [row for row in rows if row["system"] != "sppo" and row["sppo_speed_up"]]
    best = min(claimed, key=lambda row: float(row["sppo_speed_up"]), default=None)
    if best is None:
        return factor(None)
    ends = (best.get(f"sppo_speed_up_{end}") for end in ("low", "high"))
    return interval(best["sppo_speed_up"], *ends)
