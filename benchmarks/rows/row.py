"""The rows of the comparison: those of the paper's figure 10, PyTorch native, and rows of ours."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import msgspec

from baselines import registry
from baselines.protocol import Planner
from benchmarks.job import Status

Choosing = Literal["tuned", "same layout", "planned", "only one"]

READINGS: Mapping[Choosing, str] = {
    "tuned": "at its best",
    "same layout": "as the paper ran it",
}
"""What a row of a peer shows (docs/peers.md)."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """A line of the table: a system, and the way in which its settings are chosen.

    `name` is for folders and the command line, where the label does not give one. A row with
    `by_name_only` is shown only where it is named.
    """

    label: str
    system: str
    choosing: Choosing
    name: str = ""
    by_name_only: bool = False

    @property
    def slug(self) -> str:
        """The row's name in folders and on the command line."""
        return self.name or slug(self.label)

    @property
    def is_reference(self) -> bool:
        """Whether it is a row of the plain torch reference: one rank, few steps."""
        return self.system == "reference"

    @property
    def reading(self) -> str:
        """Of a peer: as the paper ran it, or at its best; "" of SPPO and of rows by name only."""
        return "" if self.by_name_only else READINGS.get(self.choosing, "")


def slug(label: str) -> str:
    """ "DeepSpeed Ulysses" -> "deepspeed-ulysses"."""
    return re.sub(r"[^a-z0-9]+", "-", label.lower()).strip("-")


ROWS = (
    Row(label="DeepSpeed Ulysses", system="deepspeed", choosing="tuned"),
    Row(
        label="Megatron in SPPO's layout",
        name="megatron-same-layout",
        system="megatron",
        choosing="same layout",
    ),
    Row(label="Megatron tuned", system="megatron", choosing="tuned"),
    Row(
        label="DeepSpeed, hosted checkpoints (ours)",
        name="deepspeed-ours",
        system="deepspeed-ours",
        choosing="tuned",
        by_name_only=True,
    ),
    Row(
        label="Megatron, attention saved (ours)",
        name="megatron-ours",
        system="megatron-ours",
        choosing="tuned",
        by_name_only=True,
    ),
    Row(
        label="Megatron with TransformerEngine",
        name="megatron-te",
        system="megatron-te",
        choosing="tuned",
        by_name_only=True,
    ),
    Row(label="PyTorch native", system="native", choosing="tuned"),
    Row(label="SPPO", system="sppo", choosing="planned"),
)

REFERENCE = Row(label="Reference", system="reference", choosing="only one")

EXACT_REFERENCE = Row(
    label="Reference in float32",
    name="reference-float32",
    system=REFERENCE.system,
    choosing="only one",
)
"""Of a workload in bfloat16."""


def slug_of(label: str) -> str:
    """The slug of the row with this label; of a row outside `ROWS`, from its label."""
    rows = (*ROWS, EXACT_REFERENCE)
    return next((row.slug for row in rows if row.label == label), slug(label))


def settings_key(settings: Mapping[str, Any]) -> str:
    """Settings as text: equal settings have equal keys, whatever the order of their fields.

    A field that is None is left out. So settings from before a field have the key of today's.
    """
    known = {name: value for name, value in settings.items() if value is not None}
    return msgspec.json.encode(known, order="sorted").decode()


@dataclass(frozen=True, kw_only=True)
class Configuration:
    """A row with its settings. A `status` says that there is no launch, for this `reason`.

    emulated: the settings were chosen by an emulation, so their fit is not measured.
    """

    row: Row
    settings: dict[str, Any] = field(default_factory=dict)
    settings_text: str = ""
    tuned: bool = True
    emulated: bool = False
    grid: str = ""
    plan: dict[str, Any] | None = None
    environment: Mapping[str, str] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    status: Status | None = None
    reason: str = ""

    @property
    def key(self) -> str:
        """The settings as `settings_key` writes them."""
        return settings_key(self.settings)


def find(names: Sequence[str]) -> tuple[Row, ...]:
    """Rows by system, slug or label, in the table's order; without names, all but `by_name_only`.

    Then rows of systems from other packages, by the system's name. Raises ValueError with the
    known names.
    """
    if not names:
        return tuple(row for row in ROWS if not row.by_name_only)
    chosen: dict[Row, None] = {}
    for name in names:
        wanted = slug(name)
        matches = [row for row in ROWS if wanted in (row.system, row.slug, slug(row.label))]
        chosen.update(dict.fromkeys(matches or [_installed(name)]))
    own = [row for row in ROWS if row in chosen]
    return (*own, *(row for row in chosen if row not in ROWS))


def _installed(name: str) -> Row:
    """The row of a system from another package."""
    system = name.strip()
    if system not in registry.installed():
        rows = [row.system for row in ROWS] + [row.slug for row in ROWS]
        known = dict.fromkeys((*rows, *registry.installed()))
        raise ValueError(f"unknown system {name!r}; known: {', '.join(known)}")
    plans = isinstance(registry.load(system), Planner)
    return Row(label=system, system=system, choosing="planned" if plans else "tuned")
