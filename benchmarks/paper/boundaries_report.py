"""The paper's boundaries beside emulated verdicts: tables, and what agrees."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from benchmarks.emulation.tables import size, table
from benchmarks.paper.boundaries import PaperPoints, Verdict
from benchmarks.paper.readings import LONGEST_MODEL
from sppo.config.sizes import length_name

HELD = ("weights", "gradients", "optimizer", "activations", "kv", "dkv", "staging", "temporary")


def text(found: PaperPoints) -> str:
    """For a terminal, and a file."""
    parts = [head(found)]
    if found.verdicts:
        parts += [_verdicts(found), agreement(found), "\n".join(_disagreements(found))]
    if found.longest:
        parts.append(_longest(found))
    parts.append(plans_beside_counts(found))
    return "\n\n".join(part for part in parts if part)


def head(found: PaperPoints) -> str:
    """What all numbers rest on."""
    environment = found.environment
    commit = (environment.get("commit") or "unknown")[:9]
    if environment.get("dirty"):
        commit += " with changes"
    named = environment.get("versions", {})
    versions = ", ".join(
        f"{name} {named[name]}" for name in ("torch", "megatron-core", "deepspeed") if name in named
    )
    count = found.sequences_per_step
    lines = [
        f"{found.label}: the paper's memory boundaries, {found.hardware}, {count} "
        f"sequence{'s' if count > 1 else ''} a step at every point, bfloat16",
        "",
        f"- {versions}; commit {commit}",
        *(f"- {name}: {rule}" for name, rule in found.rules.items()),
    ]
    return "\n".join(lines)


def _verdicts(found: PaperPoints) -> str:
    """A row a point and system."""
    rows = [
        (
            f"{one.model}, {one.gpus} GPUs",
            one.seq,
            one.reading,
            one.settings_text,
            one.status,
            size(one.peak_device_bytes),
            size(one.peak_host_bytes) if one.peak_host_bytes else "",
            _of(one.roles_emulated, one.roles),
            one.says or "-",
            {True: "yes", False: "NO", None: ""}[one.agrees],
        )
        for one in found.verdicts
    ]
    headers = (
        "model",
        "tokens",
        "system",
        "layout",
        f"{found.label}",
        "device peak",
        "host peak",
        "roles run",
        "paper",
        "agree",
    )
    return table(headers, rows)


def agreement(found: PaperPoints) -> str:
    """How many verdicts, and how many whole points."""
    points: dict[tuple[str, str], list[Verdict]] = defaultdict(list)
    for one in found.verdicts:
        if one.counted and one.agrees is not None:
            points[one.model, one.seq].append(one)
    counted = [one for several in points.values() for one in several]
    by_system: dict[str, list[Verdict]] = defaultdict(list)
    for one in counted:
        by_system[one.reading].append(one)
    each = ", ".join(
        f"{name} {sum(bool(one.agrees) for one in several)} of {len(several)}"
        for name, several in by_system.items()
    )
    whole = sum(all(one.agrees for one in several) for several in points.values())
    agreed = sum(bool(one.agrees) for one in counted)
    return (
        f"agree with the paper: {agreed} of {len(counted)} verdicts ({each}); all systems at "
        f"{whole} of {len(points)} points"
    )


def plans_beside_counts(found: PaperPoints) -> str:
    """How far SPPO's plans are off what was counted; nothing where none was counted."""
    plans = [one.planned for one in found.verdicts] + [one.planned for one in found.longest]
    if not any(plans):
        return ""
    roles = sum(len({number.rank for number in plan}) for plan in plans)
    numbers = [number for plan in plans for number in plan]
    peaks = [
        number.planned / number.counted - 1
        for number in numbers
        if number.quantity == "peak_device_bytes"
    ]
    others = [number for number in numbers if number.quantity != "peak_device_bytes"]
    wrong = [number for number in others if number.planned != number.counted]
    exact = "exact" if not wrong else f"{len(wrong)} of {len(others)} numbers NOT exact"
    return (
        f"SPPO's plans beside the counts of {roles} roles: kept activations with KV and dKV, KV, "
        f"dKV, host tier, copies, messages and collectives {exact}; device peak "
        f"{min(peaks):+.2%} to {max(peaks):+.2%}"
    )


def _disagreements(found: PaperPoints) -> Iterator[str]:
    """From the counts: what lay there, and by how much the verdict was missed."""
    for one in found.verdicts:
        if one.agrees is None and one.says is not None:
            yield f"- {one.model}, {one.seq}, {one.reading}: no verdict, {one.status}: {one.reason}"
        if one.agrees is not False:
            continue
        where = f"- {one.model}, {one.seq}, {one.reading}: the paper says {one.says or '-'}"
        if one.status not in ("ok", "oom") or not one.peak_device_bytes or not one.capacity_bytes:
            yield f"{where}; {one.status}: {one.reason}"
            continue
        held = ", ".join(
            f"{kind} {size(one.at_peak_by_kind_bytes[kind])}"
            for kind in HELD
            if one.at_peak_by_kind_bytes.get(kind)
        )
        short = one.peak_device_bytes - one.capacity_bytes
        word = "too much" if short > 0 else "to spare"
        yield f"{where}; {size(abs(short))} {word} in {one.limiting_role}: {held}"


def _longest(found: PaperPoints) -> str:
    rows = [
        (
            str(one.gpus),
            one.reading,
            one.settings_text,
            length_name(one.longest_tokens) if one.longest_tokens else "none",
            length_name(one.says_tokens) if one.says_tokens else "cannot run",
            f"{one.longest_tokens / one.says_tokens:.2f}x" if one.says_tokens else "",
            _peaks(one.peak_device_bytes),
            _peaks(one.peak_host_bytes),
            _of(len(one.peak_device_bytes), one.roles),
            _short(one.unanswered or one.beyond or "not asked"),
        )
        for one in found.longest
    ]
    headers = (
        "GPUs",
        "system",
        "layout",
        f"longest, {found.label}",
        "paper (fig. 12)",
        "against it",
        "device peak",
        "host peak",
        "roles run",
        f"{length_name(found.step_tokens)} more",
    )
    return f"{LONGEST_MODEL}, longest sequence\n\n" + table(headers, rows)


def _of(run: int, there: int) -> str:
    return f"{run} of {there}" if there else ""


def _peaks(by_role: dict[str, int]) -> str:
    peaks = [peak for peak in by_role.values() if peak]
    if not peaks:
        return ""
    low, high = size(min(peaks)), size(max(peaks))
    return high if low == high else f"{low} to {high}"


def _short(reason: str, most: int = 120) -> str:
    first = reason.partition(";")[0]
    return first if len(first) <= most else first[: most - 3] + "..."
