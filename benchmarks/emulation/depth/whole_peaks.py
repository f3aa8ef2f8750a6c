"""Settings that cannot fit, by whole models of the same settings with smaller counts of layers.

A peak is the largest of bytes at one position of the step, each linear in a count of layers, as of
the recomputed ones of a chunk (`extrapolate.py`). So peaks are convex in the count: beyond two
counts no peak lies below the line through theirs. A third whole model checks that: buffers that
fill up with the first layers break the rule.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import msgspec

from benchmarks.emulation.depth.cuts import layer_counts, pipeline_stages, virtual_stages
from benchmarks.emulation.depth.extrapolate import PEAK_TOLERANCE
from benchmarks.emulation.result import Emulation
from sppo.config.workload import Workload

Counted = dict[int, int]
"""Layers of a chunk that are counted, as the recomputed ones -> peak in bytes."""


@dataclass(kw_only=True)
class WholePeaks:
    """Device peaks of whole models, by settings, role and count of layers."""

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

        None where fewer than three smaller counts are known, or where their peaks are not convex.
        """
        count = _count(workload, settings)
        if count is None:
            return None
        roles = self._peaks.get(_family(workload, settings), {})
        bounds = list(_bounds(roles, count))
        return max(bounds, key=lambda bound: bound[1], default=None)


def _bounds(roles: dict[str, Counted], count: int) -> Iterator[tuple[str, int]]:
    for role, peaks in roles.items():
        below = sorted(known for known in peaks if known < count)[-3:]
        if len(below) < 3:
            continue
        zeroth, first, second = below
        if peaks[second] < (1 - PEAK_TOLERANCE) * _line(peaks, zeroth, first, second):
            continue
        yield role, int(_line(peaks, first, second, count))


def _line(peaks: Counted, first: int, second: int, count: int) -> float:
    slope = (peaks[second] - peaks[first]) / (second - first)
    return peaks[second] + slope * (count - second)


def _count(workload: Workload, settings: Any) -> int | None:
    """The counted layers of a chunk; None unless a chunk has layers of both kinds."""
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
