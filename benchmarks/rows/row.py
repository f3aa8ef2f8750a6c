"""The rows of the comparison, as in the paper's figure 10."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from benchmarks.job import Status

Choosing = Literal["tuned", "same layout", "planned", "only one"]


@dataclass(frozen=True, kw_only=True)
class Row:
    """A line of the table."""

    label: str
    system: str
    choosing: Choosing

    @property
    def slug(self) -> str:
        """The row's name in folders and on the command line."""
        return slug(self.label)


def slug(label: str) -> str:
    """ "DeepSpeed Ulysses" -> "deepspeed-ulysses"."""
    return re.sub(r"[^a-z0-9]+", "-", label.lower()).strip("-")


ROWS = (
    Row(label="DeepSpeed Ulysses", system="deepspeed", choosing="tuned"),
    Row(label="Megatron same layout", system="megatron", choosing="same layout"),
    Row(label="Megatron tuned", system="megatron", choosing="tuned"),
    Row(label="SPPO", system="sppo", choosing="planned"),
)

REFERENCE = Row(label="Reference", system="reference", choosing="only one")


@dataclass(frozen=True, kw_only=True)
class Configuration:
    """A row with its settings. `status` is set where it ends before any launch, with a reason."""

    row: Row
    settings: dict[str, Any] = field(default_factory=dict)
    settings_text: str = ""
    tuned: bool = True
    grid: str = ""
    plan: dict[str, Any] | None = None
    environment: Mapping[str, str] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    status: Status | None = None
    reason: str = ""


def find(names: Sequence[str]) -> tuple[Row, ...]:
    """Rows by system, slug or label, in the table's order; no names are all rows.

    Then those of systems that other packages bring, by the system's name only. Raises ValueError
    listing the known names.
    """
    if not names:
        return ROWS
    chosen: dict[Row, None] = {}
    for name in names:
        wanted = name.strip().lower()
        matches = [row for row in ROWS if wanted in (row.system, row.slug, row.label.lower())]
        chosen.update(dict.fromkeys(matches or [_installed(name)]))
    own = [row for row in ROWS if row in chosen]
    return (*own, *(row for row in chosen if row not in ROWS))


def _installed(name: str) -> Row:
    """The row of a system that another package brings."""
    from baselines import registry
    from baselines.protocol import Planner

    system = name.strip()
    if system not in registry.installed():
        rows = [row.system for row in ROWS] + [row.slug for row in ROWS]
        known = dict.fromkeys((*rows, *registry.installed()))
        raise ValueError(f"unknown system {name!r}; known: {', '.join(known)}")
    plans = isinstance(registry.load(system), Planner)
    return Row(label=system, system=system, choosing="planned" if plans else "tuned")
