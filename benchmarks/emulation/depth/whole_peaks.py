"""Settings that cannot fit, by whole models of the same settings that recompute fewer layers.

A peak is the largest of bytes at one position of the step, each linear in the recomputed layers of
a chunk (`extrapolate.py`). So peaks are convex in their count: beyond two counts no peak lies below
the line through theirs.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import msgspec

from benchmarks.emulation.depth.cuts import layer_counts, pipeline_stages, virtual_stages
from benchmarks.emulation.result import Emulation
from sppo.config.workload import Workload

Counted = dict[int, int]
"""Recomputed layers of a chunk -> peak in bytes."""


@dataclass(kw_only=True)
class WholePeaks:
    """Device peaks of whole models, by settings, role and count of recomputed layers."""

    _peaks: dict[str, dict[str, Counted]] = field(default_factory=dict)

    def note(self, settings: Any, emulation: Emulation) -> None:
        """Keep the peaks of an emulated whole model."""
        count = _count(emulation.workload, settings)
        if count is None:
            return
        roles = self._peaks.setdefault(_family(emulation.workload, settings), {})
        for report in emulation.roles:
            if report.counts is not None:
                roles.setdefault(report.role, {})[count] = report.counts.peak_device_bytes

    def least_bytes(self, workload: Workload, settings: Any) -> tuple[str, int] | None:
        """The role with the largest lower bound of a peak, and the bound in bytes.

        None where fewer than two smaller counts are known, of every role.
        """
        count = _count(workload, settings)
        if count is None:
            return None
        roles = self._peaks.get(_family(workload, settings), {})
        bounds = list(_bounds(roles, count))
        return max(bounds, key=lambda bound: bound[1], default=None)


def _bounds(roles: dict[str, Counted], count: int) -> Iterator[tuple[str, int]]:
    for role, peaks in roles.items():
        below = sorted(known for known in peaks if known < count)[-2:]
        if len(below) == 2:
            first, second = below
            slope = (peaks[second] - peaks[first]) / (second - first)
            yield role, int(peaks[second] + slope * (count - second))


def _count(workload: Workload, settings: Any) -> int | None:
    """Recomputed layers of a chunk; None unless a chunk has layers of both kinds."""
    names = layer_counts(settings)
    if len(names) != 1:
        return None
    layers = workload.model.layers // (pipeline_stages(settings) * virtual_stages(settings))
    count: int = getattr(settings, names[0])
    return count if 0 < count < layers else None


def _family(workload: Workload, settings: Any) -> str:
    """Equal for settings of one workload that differ in the count alone."""
    (name,) = layer_counts(settings)
    same = replace(settings, **{name: 1})
    return msgspec.json.encode([workload, same]).decode()
