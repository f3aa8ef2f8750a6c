"""An emulation for people: the verdict, then roles by bytes, by FLOPs and by messages."""

from __future__ import annotations

import math
from collections.abc import Sequence

from baselines import registry
from benchmarks.emulation.result import (
    KINDS,
    LABEL,
    Counts,
    Emulation,
    Planned,
    RoleReport,
    SimulatedTime,
    Traffic,
    position_text,
    stale_text,
)
from benchmarks.emulation.search import EmulationTrial, SearchResult
from benchmarks.reporting.text_table import rows_table
from sppo.config.sizes import KIB, format_bytes, length_name

SHOWN_TRIALS = 24
"""Trials of a search that are shown. All are in its JSON."""

SHOWN_SETTINGS = 4
"""Settings that were not tried, by name."""

_UNITS = ((1e15, "PFLOP"), (1e12, "TFLOP"), (1e9, "GFLOP"), (1e6, "MFLOP"))

_Counted = Sequence[tuple[RoleReport, Counts]]


def text(emulation: Emulation) -> str:
    """Head, the system's remark, verdict, simulated time and tables; other numbers are emulated."""
    remark = registry.load(emulation.system).remark
    parts = [head(emulation), *([f"{emulation.system}: {remark}"] if remark else [])]
    parts.append(verdict_text(emulation))
    if stale_text(emulation.roles):
        parts.append(stale_text(emulation.roles))
    if emulation.simulated_time is not None:
        parts.append(time_text(emulation.simulated_time))
    counted = [(report, report.counts) for report in emulation.roles if report.counts is not None]
    if counted:
        parts += [_memory(counted), _flops(counted), _messages(counted)]
    if emulation.planned:
        parts.append(_planned(emulation.planned))
    parts += [
        f"{report.role}: {report.status}, {report.phase}: {report.reason}"
        for report in emulation.roles
        if report.counts is None
    ]
    return "\n\n".join(parts)


def head(emulation: Emulation) -> str:
    """System, settings, workload and versions of the emulation, in one line."""
    workload = emulation.workload
    sequences = workload.sequences_per_step
    versions = next((report.versions for report in emulation.roles if report.versions), {})
    named = ", ".join(f"{name} {version}" for name, version in versions.items())
    return (
        f"{LABEL}: {emulation.system}, {emulation.settings_text}: {workload.model.name}, "
        f"{sequences} sequence{'s' if sequences > 1 else ''} of "
        f"{length_name(workload.sequence_tokens)} tokens a step, {workload.dtype}, "
        f"{workload.cluster.ranks} ranks" + (f" ({named})" if named else "")
    )


def verdict_text(emulation: Emulation) -> str:
    """One line: the status and its reason."""
    if emulation.status != "ok":
        return f"{emulation.status}: {emulation.reason}"
    peak = format_bytes(
        max(role.counts.peak_device_bytes for role in emulation.roles if role.counts)
    )
    if emulation.capacity_bytes is None:
        return f"ok: {peak} at most ({emulation.limiting_role}), no device limit"
    capacity = format_bytes(emulation.capacity_bytes)
    return f"ok: fits {capacity} of device memory; {emulation.limiting_role} needs the most, {peak}"


def time_text(time: SimulatedTime) -> str:
    """One line: the step with messages and without, TGS, MFU, kernel limit and bubble."""
    limit = time.kernel_limit_share
    limited = "" if limit is None else f" ({limit:.1%} of the kernel limit)"
    return (
        f"{time.label}, {time.profile} profile ({time.profile_kind}): "
        f"{_number(time.step_seconds)} s a step, {_number(time.step_seconds_if_hidden)} s if all "
        f"messages were hidden; {_number(time.tokens_per_second_per_gpu)} tokens/s a GPU; "
        f"MFU {time.mfu:.1%}{limited}; bubble {time.idle_share:.1%}"
    )


def _number(value: float) -> str:
    return f"{value:,.1f}" if value >= 10 else f"{value:.2f}" if value >= 1 else f"{value:.3g}"


def _memory(counted: _Counted) -> str:
    """At the device's peak, by kind; kinds without bytes are left out."""
    peaks = [counts.at_peak_by_kind_bytes for _, counts in counted]
    kinds = [kind for kind in KINDS if any(peak.get(kind) for peak in peaks)]
    headers = (f"{LABEL}, at the peak", "ranks", "device", *kinds, "host peak", "when")
    rows = [
        (
            report.role,
            str(report.ranks),
            format_bytes(counts.peak_device_bytes),
            *(size(counts.at_peak_by_kind_bytes.get(kind, 0)) for kind in kinds),
            size(counts.peak_host_bytes),
            position_text(counts.peak_at),
        )
        for report, counts in counted
    ]
    return rows_table(headers, rows)


def _planned(numbers: Sequence[Planned]) -> str:
    """The predictions of the plan; where the count differs, by how much."""
    rows: dict[tuple[str, int], list[str]] = {}
    for number in numbers:
        planned, counted = number.planned, number.counted
        words = size(planned) if number.quantity.endswith("_bytes") else f"{planned:,}"
        if planned != counted:
            words += f" ({planned / counted - 1:+.2%})" if counted else " (counted: 0)"
        rows.setdefault((number.role, number.rank), [number.role]).append(words)
    quantities = dict.fromkeys(number.quantity for number in numbers)
    headers = (
        "planned (off by; else as counted)",
        *(name.replace("_", " ") for name in quantities),
    )
    return rows_table(headers, list(rows.values()))


def _flops(counted: _Counted) -> str:
    operations = [(report.role, counts.flops_by_operation) for report, counts in counted]
    largest = max(flops.attention_full for _, flops in operations)
    unit, name = next((pair for pair in _UNITS if largest >= pair[0]), _UNITS[-1])
    columns = ("matmul", "attention_causal", "attention_full", "recomputed")
    headers = (f"{LABEL}, {name} a rank", *(column.replace("_", " ") for column in columns))
    rows = [
        (role, *(f"{getattr(flops, column) / unit:,.3f}" for column in columns))
        for role, flops in operations
    ]
    return rows_table(headers, rows)


def _messages(counted: _Counted) -> str:
    """By operation and link; each group alone is in the JSON."""
    headers = (f"{LABEL}, messages of a rank", "operation", "link", "ranks", "calls", "bytes")
    rows = []
    for report, counts in counted:
        groups: dict[tuple[str, str, int], list[Traffic]] = {}
        for traffic in counts.communication:
            key = (traffic.operation, traffic.link, traffic.group_ranks)
            groups.setdefault(key, []).append(traffic)
        for group, messages in groups.items():
            calls = sum(traffic.calls for traffic in messages)
            total = sum(traffic.bytes for traffic in messages)
            words = format_bytes(total) if total >= KIB else f"{total} B"
            rows.append((report.role, *map(str, group), f"{calls:,}", words))
    return rows_table(headers, rows)


def size(size_bytes: int | None) -> str:
    """Bytes for people; nothing for None."""
    if not size_bytes:
        return "" if size_bytes is None else "0"
    return format_bytes(size_bytes)


def answer(result: SearchResult) -> str:
    """The answer of a search in one line."""
    ranks = result.workload.cluster.ranks
    name = f"{result.label}: {result.system}, {result.workload.model.name}, {ranks} ranks"
    if result.found is None:
        return f"{name}: nothing that was tried fits"
    settings = result.found.settings_text
    if result.longest_tokens is None:
        return f"{name}: fastest (simulated) of what fits: {settings}"
    end = f"{length_name(result.longest_tokens + result.step_tokens)} do not"
    if result.longest_tokens == result.at_most_tokens:
        end = "no more were asked for"
    elif result.not_tried:
        end = "more were not tried"
    return f"{name}: {length_name(result.longest_tokens)} tokens fit, {end} ({settings})"


def trials(result: SearchResult) -> str:
    """A table of the trials of a search: whole models, then the fastest extrapolated ones."""
    ordered = sorted(result.trials, key=_order)
    rows = [
        (
            trial.settings_text,
            length_name(trial.tokens),
            trial.status,
            size(trial.peak_device_bytes),
            trial.limiting_role or "",
            "" if trial.step_seconds is None else f"{trial.step_seconds:,.1f}",
            _emulated(trial),
        )
        for trial in ordered[:SHOWN_TRIALS]
    ]
    columns = ("tokens", "status", "peak", "role", "simulated seconds a step", "emulated")
    table = rows_table((f"{result.label}, tried", *columns), rows)
    more = len(ordered) - len(rows)
    return f"{table}\n\n{more:,} more in search.json" if more > 0 else table


def _order(trial: EmulationTrial) -> tuple[int, bool, float]:
    """Whole models in the order of their emulations; then what fits, by time."""
    if trial.emulated == "whole":
        return 0, False, 0.0
    seconds = math.inf if trial.step_seconds is None else trial.step_seconds
    return (1 if trial.emulated else 2), trial.status != "ok", seconds


def _emulated(trial: EmulationTrial) -> str:
    """ "whole", "extrapolated from 2 and 3 layers", or nothing where nothing ran."""
    if trial.emulated != "extrapolated":
        return trial.emulated
    return f"extrapolated from {' and '.join(map(str, trial.layers))} layers"


def remarks(result: SearchResult) -> list[str]:
    """What a search has not answered, was not tried, or need not be tried; a line each."""
    lines = []
    if result.unanswered:
        lines.append(f"not answered, so more may fit: {result.unanswered}")
    if result.not_tried:
        shown, count = result.not_tried[:SHOWN_SETTINGS], len(result.not_tried)
        more = f" and {count - len(shown):,} more in search.json" if count > len(shown) else ""
        lines.append(f"not tried, the budget was over: {'; '.join(shown)}{more}")
    if result.skipped:
        times = [skipped.at_least_seconds for skipped in result.skipped]
        least = min((seconds for seconds in times if seconds is not None), default=None)
        why = "memory ends earlier" if least is None else f"each takes at least {least:,.1f} s"
        lines.append(f"{len(result.skipped):,} settings need no emulation: {why}")
    return lines
