"""The counts of a rank of the whole model from the counts of the same rank of cut models.

Exact for what is linear in layers: FLOPs, messages, bytes at one position of the step. A peak is
the largest of such bytes over all positions, so a convex function of the layers: a line through two
depths lies at or below the peak of a deeper model. Buffers that fill up with the first layers (the
gathered weights of a small model) break this, and `check_peak` finds them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from benchmarks.emulation.result import Counts, RoleReport

PEAK_TOLERANCE = 0.001
"""The share of a peak by which the check may lie below the parts' line or plane."""

SAME = frozenset(("operation", "group", "group_ranks", "link"))
"""What names a kind of message."""


class NotAlike(ValueError):
    """The counts of the cut models do not add up: their layers are not alike."""


def extrapolated(parts: Sequence[tuple[int, RoleReport]]) -> RoleReport:
    """The report of the whole model's rank: the sum of (factor, report) over the cut models.

    Each has counts. `peak_at` is that of the deepest. Raises NotAlike.
    """
    deepest = max((report for _, report in parts), key=lambda report: report.flops or 0)
    plain = [(factor, msgspec.to_builtins(_counts(report))) for factor, report in parts]
    first = plain[0][1]
    # Kinds of messages first: where they differ, a sum of bytes says less.
    names = sorted(first.keys() - {"peak_at"}, key=lambda name: not isinstance(first[name], list))
    total = {name: _sum(name, plain) for name in names}
    total["peak_at"] = msgspec.to_builtins(_counts(deepest).peak_at)
    counts = msgspec.convert(total, Counts)
    return msgspec.structs.replace(
        deepest,
        peak_device_bytes=counts.peak_device_bytes,
        peak_host_bytes=counts.peak_host_bytes,
        flops=counts.flops,
        communication_bytes=counts.communication_bytes,
        counts=counts,
        seconds=sum(report.seconds or 0.0 for _, report in parts),
        reused=all(report.reused for _, report in parts),
    )


def check_peak(check: RoleReport, parts: Sequence[tuple[int, RoleReport]]) -> None:
    """Raise NotAlike where the check's peak lies below the sum of (factor, report) of the parts.

    Then peaks grow ever more slowly, and the extrapolated peak may lie above the whole model's.
    """
    expected = sum(factor * _counts(report).peak_device_bytes for factor, report in parts)
    if _counts(check).peak_device_bytes < (1 - PEAK_TOLERANCE) * expected:
        raise NotAlike("peaks: a deeper model holds less than expected")


def _counts(report: RoleReport) -> Counts:
    assert report.counts is not None, "only counted ranks are extrapolated"
    return report.counts


def _sum(name: str, parts: Sequence[tuple[int, Mapping[str, Any]]]) -> Any:
    """A field of Counts: a number, numbers by name, or messages."""
    values = [(factor, counts[name]) for factor, counts in parts]
    first = values[0][1]
    if isinstance(first, dict):
        return _sum_by_name(name, values)
    if isinstance(first, list):
        messages = [(factor, {_kind(item): item for item in items}) for factor, items in values]
        kinds = _same_names(name, [items for _, items in messages])
        return [
            dict(kind)
            | {
                field: _number(
                    f"{name} {field}", [(f, items[kind][field]) for f, items in messages]
                )
                for field in messages[0][1][kind]
                if field not in SAME
            }
            for kind in kinds
        ]
    return _number(name, values)


def _sum_by_name(name: str, values: Sequence[tuple[int, Mapping[str, int]]]) -> dict[str, int]:
    """A kind of bytes that some models do not have is zero there: kinds at the peak may change."""
    lenient = name.endswith("kind_bytes")
    names = dict.fromkeys(key for _, mapping in values for key in mapping)
    if not lenient:
        _same_names(name, [mapping for _, mapping in values])
    sums = {key: sum(factor * mapping.get(key, 0) for factor, mapping in values) for key in names}
    if lenient:
        return {key: max(0, value) for key, value in sums.items()}
    return {key: _not_negative(f"{name} {key}", value) for key, value in sums.items()}


def _kind(message: Mapping[str, Any]) -> tuple[tuple[str, Any], ...]:
    return tuple((name, value) for name, value in message.items() if name in SAME)


def _same_names(name: str, mappings: Sequence[Mapping[Any, Any]]) -> list[Any]:
    names = [set(mapping) for mapping in mappings]
    if any(other != names[0] for other in names):
        raise NotAlike(f"{name}: other kinds at another depth")
    return list(mappings[0])


def _number(name: str, values: Sequence[tuple[int, int]]) -> int:
    return _not_negative(name, sum(factor * value for factor, value in values))


def _not_negative(name: str, value: int) -> int:
    if value < 0:
        raise NotAlike(f"{name}: fewer at a greater depth")
    return value
