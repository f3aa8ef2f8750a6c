"""The plan for people: layout, simulated times, memory bars, decisions in words, reasons. No torch.

Plain ASCII, at most WIDTH columns, so that it reads alike in a terminal and in a file.
"""

from __future__ import annotations

import itertools
import textwrap
from collections.abc import Iterator, Sequence

from sppo.config.hardware import Hardware
from sppo.config.sizes import format_bytes
from sppo.config.workload import Workload
from sppo.cost_model.flops import step_flops
from sppo.plan.plan import PartPlan, Plan, StageMemory, StagePlan, Untracked
from sppo.planner.report.wording import in_order, ranges

WIDTH = 100
BAR = 40
FREE = "."
INDENT = " " * 12
NO_BREAK = "\N{NO-BREAK SPACE}"
FATE_LINES = 12
"""Lines of decisions that a part may take; the rest is in the plan's JSON."""

REJECTED_LINES = 4

KINDS = {
    "M": "model state",
    "K": "KV",
    "D": "dKV",
    "A": "kept activations",
    "S": "staging",
    "T": "temporary",
    "C": "constants",
    "U": "beside tracked tensors",
    "H": "what travels",
}
"""Letters of the bars. K in the host tier is KV and dKV together."""


def card(plan: Plan, profile: Hardware, workload: Workload) -> str:
    """The plan as text. `workload` is what it was made for: limits and FLOPs are its."""
    lines = [
        f"Plan of {plan.workload}: {plan.model.name}, {plan.sequences_per_step} x "
        f"{plan.sequence_tokens:,} tokens a step",
        *_rows(_head(plan, profile, workload)),
        "",
        *_memory(plan, workload),
        "",
        "Decisions of the saved activations (all others are kept)",
        *_fates(plan),
        "",
        "Why",
        *_listed(plan.reasons),
    ]
    if plan.rejected:
        shown = [*plan.rejected[:REJECTED_LINES]]
        if len(plan.rejected) > REJECTED_LINES:
            shown.append("and more: --json lists them")
        lines += ["", "Rejected", *_listed(shown)]
    return "\n".join(lines)


def _head(plan: Plan, profile: Hardware, workload: Workload) -> Iterator[tuple[str, str]]:
    ranks = plan.ranks
    seconds = plan.makespan_seconds
    rate = workload.tokens_per_step / seconds / ranks
    peak = profile.peak_flops_per_second
    share = step_flops(workload).causal / (seconds * ranks * peak)
    parts = "1 part" if plan.virtual_stages == 1 else f"{plan.virtual_stages} parts"
    ends = sorted(set(plan.lengths_tokens), reverse=True)
    between = " .. ".join(f"{length:,}" for length in dict.fromkeys((ends[0], ends[-1])))
    yield "hardware", f"{ranks} ranks of {profile.name}, {profile.kind} profile"
    yield "layout", f"{plan.degrees_words}, {parts} a stage"
    yield "cut", f"N {plan.subsequences} subsequences of {between} tokens"
    if plan.kv_block_tokens:
        yield "", f"K, V and their gradients in the host tier, blocks of {plan.kv_block_tokens:,}"
    if plan.msp_splits:
        yield "MSP", f"{_lent(plan, fills=True)} as the pipeline fills"
        drained = _lent(plan, fills=False)
        if drained:
            yield "", f"{drained} as it drains"
    yield "simulated", f"forward + backward {seconds:.3f} s, bubble share {plan.bubble_share:.1%}"
    yield "", f"{rate:,.1f} tokens per second per rank, MFU (causal) {share:.1%} of {_rate(peak)}"
    yield "", f"from the {profile.kind} profile {profile.name}; without the optimizer"


def _lent(plan: Plan, *, fills: bool) -> str:
    """Which parts are computed together, in slices, and for how many subsequences."""
    lent = [one for one in plan.msp_splits if one.fills == fills]
    if not lent:
        return ""
    parts = ranges([one.part for one in lent])
    count = sum(len(one.subsequences) for one in lent)
    most = max(len(one.ranks) for one in lent)
    words = "subsequence" if count == 1 else "part-subsequences"
    return f"part{'s' if len(lent) > 1 else ''} {parts}: {count} {words} in up to {most} slices"


def _rate(flops_per_second: float) -> str:
    if flops_per_second >= 1e12:
        return f"{flops_per_second / 1e12:,.1f} TFLOP/s"
    return f"{flops_per_second / 1e9:,.1f} GFLOP/s"


def _rows(rows: Iterator[tuple[str, str]]) -> list[str]:
    return [f"  {name:<11}{text}" for name, text in rows]


def _memory(plan: Plan, workload: Workload) -> Iterator[str]:
    """Two bars and the bytes of every kind, for each group of like stages."""
    devices = [_device(stage.memory) for stage in plan.stages]
    hosts = [_host(stage.memory) for stage in plan.stages]
    limits = workload.device_memory_bytes, workload.host_memory_bytes
    device_full = max(limits[0] or 1, *(sum(sizes.values()) for sizes in devices))
    host_full = max(limits[1] or 1, *(sum(sizes.values()) for sizes in hosts))
    letters = [letter for letter in KINDS if any(sizes.get(letter) for sizes in (*devices, *hosts))]
    yield f"Predicted peak memory of a rank; a bar has {BAR} characters"
    yield f"  device  {_limit(limits[0])}, a character is {format_bytes(device_full // BAR)}"
    yield f"  host    {_limit(limits[1])}, a character is {format_bytes(host_full // BAR)}"
    yield from _entries(
        [*(f"{letter} {KINDS[letter]}" for letter in letters), f"{FREE} free"], "  "
    )
    for first, last in _groups(plan):
        layers = sorted(layer for one in plan.stages[first : last + 1] for layer in one.layers)
        yield f"  {_stages(first, last)} ({_layers(layers)})"
        yield from _tier("device", devices[first], device_full, limits[0])
        yield from _untracked(plan.stages[first].memory.untracked)
        yield from _tier("host", hosts[first], host_full, limits[1])


def _limit(limit: int | None) -> str:
    return "no limit" if limit is None else f"limit {format_bytes(limit)}"


def _tier(name: str, sizes: dict[str, int], full: int, limit: int | None) -> Iterator[str]:
    """The bar with what is taken and left, and the bytes of each kind."""
    total = sum(sizes.values())
    left = ""
    if limit is not None and total > limit:
        left = f", {format_bytes(total - limit)} OVER THE LIMIT"
    elif limit is not None:
        left = f", {format_bytes(limit - total)} free"
    taken = format_bytes(total) if total else "nothing"
    yield f"    {name:<6} [{bar(sizes, full)}] {taken}{left}"
    yield from _entries(
        [f"{letter} {format_bytes(size)}" for letter, size in sizes.items() if size], INDENT
    )


def _entries(entries: Sequence[str], indent: str) -> Iterator[str]:
    """Entries side by side, none broken over two lines."""
    text = "   ".join(entry.replace(" ", NO_BREAK) for entry in entries)
    for line in textwrap.wrap(text, WIDTH, initial_indent=indent, subsequent_indent=indent):
        yield line.replace(NO_BREAK, " ")


def _stages(first: int, last: int) -> str:
    return f"stage {first}" if first == last else f"stages {first} .. {last}"


def _layers(layers: Sequence[int]) -> str:
    return f"layer{'s' if len(layers) > 1 else ''} {ranges(layers)}"


def _device(memory: StageMemory) -> dict[str, int]:
    """Bytes by letter; together they are `memory.device_peak`."""
    return {
        "M": memory.weights + memory.gradients + memory.optimizer,
        "K": memory.kv,
        "D": memory.dkv,
        "A": memory.kept,
        "S": memory.staging,
        "T": memory.temporary,
        "C": memory.constants,
        "U": memory.untracked.charged,
    }


def _untracked(sizes: Untracked) -> Iterator[str]:
    """What the device holds beside tracked tensors, by cause."""
    named = {
        "machine code": sizes.code,
        "scratch of a kernel": sizes.scratch,
        "matrix workspaces": sizes.workspaces,
        "communicators": sizes.communicators,
        "rounding": sizes.process,
    }
    entries = [f"{name} {format_bytes(size)}" for name, size in named.items() if size]
    if entries:
        where = "U is" if sizes.charged else "beside tracked tensors, in the reserve:"
        yield from _entries([f"{where} {entries[0]}", *entries[1:]], INDENT)


def _host(memory: StageMemory) -> dict[str, int]:
    return {"K": memory.kv_host, "H": memory.host}


def bar(sizes: dict[str, int], full: int) -> str:
    """BAR characters: the sizes in their order, each to the nearest character, then free ones.

    What is not zero has at least one, at the cost of the largest.
    """
    counts: dict[str, int] = {}
    reached = 0
    for letter, size in sizes.items():
        reached += size
        counts[letter] = min(BAR, round(BAR * reached / full)) - sum(counts.values())
    for letter, size in sizes.items():
        if size and not counts[letter]:
            counts[letter] = 1
            largest = max(counts, key=lambda one: counts[one])
            counts[largest] -= int(counts[largest] > 1)
    return "".join(letter * count for letter, count in counts.items()).ljust(BAR, FREE)


def _groups(plan: Plan) -> Iterator[tuple[int, int]]:
    """First and last of consecutive stages with the same memory and the same decisions."""
    numbered = enumerate(plan.stages)
    for _, alike in itertools.groupby(numbered, key=lambda pair: _likeness(pair[1])):
        stages = [index for index, _ in alike]
        yield stages[0], stages[-1]


def _likeness(stage: StagePlan) -> tuple[object, ...]:
    return stage.memory, tuple(_fate_key(part) for part in stage.parts)


def _fate_key(part: PartPlan) -> tuple[object, ...]:
    return len(part.layer_range), part.offload_units, part.recompute_units


def _fates(plan: Plan) -> Iterator[str]:
    """Per group of like stages and like parts, what becomes of which subsequences."""
    for _, alike in itertools.groupby(
        enumerate(plan.stages), key=lambda pair: tuple(_fate_key(p) for p in pair[1].parts)
    ):
        stages = list(alike)
        first, last = stages[0][0], stages[-1][0]
        name = _stages(first, last)
        parts = stages[0][1].parts
        if len({_fate_key(part) for part in parts}) == 1:
            parts = parts[:1]
        for number, part in enumerate(parts):
            which = name
            if len(parts) > 1:
                which += f", part {number} ({_layers(part.layer_range)})"
            yield f"  {which}"
            lines = list(_fate_lines(plan, part))
            for line in lines[:FATE_LINES]:
                yield from _wrapped(line, "    ")
            if len(lines) > FATE_LINES:
                yield f"    and {len(lines) - FATE_LINES} more: --json lists every subsequence"


def _fate_lines(plan: Plan, part: PartPlan) -> Iterator[str]:
    """Consecutive subsequences of one decision are one line."""
    layers = len(part.layer_range)
    words = [
        _fate(plan, layers, part.offload_units[index], part.recompute_units[index])
        for index in range(plan.subsequences)
    ]
    for text, run in itertools.groupby(range(plan.subsequences), key=lambda index: words[index]):
        indices = list(run)
        plural = "s" if len(indices) > 1 else ""
        yield f"subsequence{plural} {ranges(indices)}: {text}"


def _fate(plan: Plan, layers: int, travels: Sequence[tuple[int, str]], again: Sequence[str]) -> str:
    counts: dict[str, int] = {}
    for layer, name in travels:
        counts[name] = layers if layer == layers else counts.get(name, 0) + 1
    words = []
    if again:
        words.append(f"{in_order(plan.model, again)} recomputed")
    if counts:
        named = [
            name if count == layers else f"{name} in {count} of {layers} layers"
            for name, count in counts.items()
        ]
        words.append(f"{', '.join(named)} travel{'s' if len(named) == 1 else ''}")
    return "; ".join(words) or "all stay"


def _listed(texts: Sequence[str]) -> list[str]:
    return [line for text in texts for line in _wrapped(f"- {text}", "  ")]


def _wrapped(text: str, indent: str) -> list[str]:
    return textwrap.wrap(
        text,
        WIDTH,
        initial_indent=indent,
        subsequent_indent=f"{indent}  ",
        break_long_words=False,
        break_on_hyphens=False,
    )
