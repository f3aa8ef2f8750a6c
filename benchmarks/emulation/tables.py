"""An emulation for people: the verdict, then roles by bytes, by FLOPs and by messages."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from benchmarks.emulation import tables
from benchmarks.emulation.result import (
    KINDS,
    LABEL,
    Counts,
    Emulation,
    Planned,
    RoleReport,
    SimulatedTime,
    Traffic,
    moment_text,
)
from benchmarks.emulation.search import Searched
from sppo.config.sizes import KIB, format_bytes, length_name

PLANNED = {
    "peak_device_bytes": "device peak",
    "activation_peak_bytes": "activations, KV, dKV",
    "kv_bytes": "KV",
    "dkv_bytes": "dKV",
    "peak_host_bytes": "host peak",
    "copied_bytes": "copied",
    "messages": "messages",
    "message_bytes": "of bytes",
    "collectives": "collectives",
    "collective_bytes": "of bytes",
}
_UNITS = ((1e15, "PFLOP"), (1e12, "TFLOP"), (1e9, "GFLOP"), (1e6, "MFLOP"))


def text(found: Emulation) -> str:
    """Head, verdict, the simulated time and tables; every other number is emulated."""
    parts = [head(found), verdict_text(found)]
    if found.simulated_time is not None:
        parts.append(time_text(found.simulated_time))
    counted = [(report, report.counts) for report in found.roles if report.counts is not None]
    if counted:
        parts += [_memory(counted), _flops(counted), _messages(counted)]
    if found.planned:
        parts.append(_planned(found.planned))
    lost = [report for report in found.roles if report.counts is None]
    parts += [f"{report.role}: {report.status}, {report.phase}: {report.reason}" for report in lost]
    return "\n\n".join(parts)


def head(found: Emulation) -> str:
    """What was emulated, and with which versions."""
    workload = found.workload
    sequences = workload.sequences_per_step
    versions = next((report.versions for report in found.roles if report.versions), {})
    named = ", ".join(f"{name} {version}" for name, version in versions.items())
    return (
        f"{LABEL}: {found.system}, {found.settings_text}: {workload.model.name}, "
        f"{sequences} sequence{'s' if sequences > 1 else ''} of "
        f"{length_name(workload.sequence_tokens)} tokens a step, {workload.dtype}, "
        f"{workload.cluster.ranks} ranks" + (f" ({named})" if named else "")
    )


def verdict_text(found: Emulation) -> str:
    """One line: the status and why."""
    if found.status != "ok":
        return f"{found.status}: {found.reason}"
    peak_bytes = max(report.counts.peak_device_bytes for report in found.roles if report.counts)
    if found.capacity_bytes is None:
        return f"ok: {format_bytes(peak_bytes)} at most ({found.limiting_role}), no device limit"
    return (
        f"ok: fits {format_bytes(found.capacity_bytes)} of device memory; {found.limiting_role} "
        f"needs the most, {format_bytes(peak_bytes)}"
    )


def time_text(time: SimulatedTime) -> str:
    """One line: the step, the same if its messages cost nothing, and what follows from it."""
    return (
        f"{time.label}, {time.profile} profile ({time.profile_kind}): "
        f"{_number(time.step_seconds)} s a step, {_number(time.step_seconds_if_hidden)} s if all "
        f"messages were hidden; {_number(time.tokens_per_second_per_gpu)} tokens/s a GPU; "
        f"MFU {time.mfu:.1%}; bubble {time.idle_share:.1%}"
    )


def _number(value: float) -> str:
    return f"{value:,.1f}" if value >= 10 else f"{value:.2f}" if value >= 1 else f"{value:.3g}"


def table(headers: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    from tabulate import tabulate

    made: str = tabulate(list(rows), headers=headers, tablefmt="github", disable_numparse=True)
    return made


def _memory(counted: Sequence[tuple[RoleReport, Counts]]) -> str:
    """At the device's peak, by kind; kinds that nobody has are left out."""
    held = [
        kind
        for kind in KINDS
        if any(counts.at_peak_by_kind_bytes.get(kind) for _, counts in counted)
    ]
    headers = (f"{LABEL}, at the peak", "ranks", "device", *held, "host peak", "when")
    rows = [
        (
            report.role,
            str(report.ranks),
            format_bytes(counts.peak_device_bytes),
            *(size(counts.at_peak_by_kind_bytes.get(kind, 0)) for kind in held),
            size(counts.peak_host_bytes),
            moment_text(counts.peak_at),
        )
        for report, counts in counted
    ]
    return table(headers, rows)


def _planned(numbers: Sequence[Planned]) -> str:
    """What the plan has predicted; where another number was counted, by how much it is off."""
    rows: dict[tuple[str, int], list[str]] = {}
    for one in numbers:
        words = size(one.planned) if one.quantity.endswith("_bytes") else f"{one.planned:,}"
        if one.planned != one.counted:
            words += f" ({one.planned / one.counted - 1:+.2%})" if one.counted else " (counted: 0)"
        rows.setdefault((one.role, one.rank), []).append(words)
    quantities = dict.fromkeys(one.quantity for one in numbers)
    headers = ("planned (off by; else as counted)", *(PLANNED[name] for name in quantities))
    return table(headers, [(role, *words) for (role, _), words in rows.items()])


def _flops(counted: Sequence[tuple[RoleReport, Counts]]) -> str:
    largest = max(counts.flops_by_operation.attention_full for _, counts in counted)
    unit, name = next((pair for pair in _UNITS if largest >= pair[0]), _UNITS[-1])
    headers = (
        f"{LABEL}, {name} a rank",
        "matmul",
        "attention causal",
        "attention full",
        "recomputed",
    )
    rows = []
    for report, counts in counted:
        operations = counts.flops_by_operation
        numbers = (
            operations.matmul,
            operations.attention_causal,
            operations.attention_full,
            operations.recomputed,
        )
        rows.append((report.role, *(f"{number / unit:,.3f}" for number in numbers)))
    return table(headers, rows)


def _messages(counted: Sequence[tuple[RoleReport, Counts]]) -> str:
    """By operation and link; the groups one by one are in the JSON."""
    headers = (f"{LABEL}, messages of a rank", "operation", "link", "ranks", "calls", "bytes")
    rows = []
    for report, counts in counted:
        for (operation, link, ranks), items in _alike(counts.communication).items():
            calls = sum(item.calls for item in items)
            size_bytes = sum(item.bytes for item in items)
            size = format_bytes(size_bytes) if size_bytes >= KIB else f"{size_bytes} B"
            rows.append((report.role, operation, link, str(ranks), f"{calls:,}", size))
    return table(headers, rows)


def _alike(traffic: Sequence[Traffic]) -> dict[tuple[str, str, int], list[Traffic]]:
    groups: dict[tuple[str, str, int], list[Traffic]] = {}
    for item in traffic:
        groups.setdefault((item.operation, item.link, item.group_ranks), []).append(item)
    return groups


def size(size_bytes: int | None) -> str:
    """Bytes for people; nothing where nobody counted."""
    if not size_bytes:
        return "" if size_bytes is None else "0"
    return format_bytes(size_bytes)


def answer(found: Searched) -> str:
    """One line."""
    name = f"{found.system}, {found.workload.model.name}, {found.workload.cluster.ranks} ranks"
    if found.found is None:
        return f"{found.label}: {name}: nothing that was tried fits"
    settings = found.found.settings_text
    if found.longest_tokens is None:
        return f"{found.label}: {name}: fastest (simulated) of what fits: {settings}"
    end = f"{length_name(found.longest_tokens + found.step_tokens)} do not"
    if found.longest_tokens == found.at_most_tokens:
        end = "no more were asked for"
    return (
        f"{found.label}: {name}: {length_name(found.longest_tokens)} tokens fit, {end} ({settings})"
    )


def tried(found: Searched) -> str:
    rows = [
        (
            trial.settings_text,
            length_name(trial.tokens),
            trial.status,
            tables.size(trial.peak_device_bytes),
            trial.limiting_role or "",
            "" if trial.step_seconds is None else f"{trial.step_seconds:,.1f}",
        )
        for trial in found.trials
    ]
    headers = (
        f"{found.label}, tried",
        "tokens",
        "status",
        "peak",
        "role",
        "simulated seconds a step",
    )
    return tables.table(headers, rows)
