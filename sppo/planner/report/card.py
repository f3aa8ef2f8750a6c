"""The plan for people: layout, simulated times, memory, decisions and reasons as tables. No torch.

Plain ASCII, at most WIDTH columns: a terminal and a file show the same.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from typing import TypeVar

from sppo.config.hardware import Hardware
from sppo.config.sizes import format_bytes
from sppo.config.workload import Workload
from sppo.cost_model.flops import step_flops
from sppo.cost_model.time_shares import TimeShares, time_shares
from sppo.plan.plan import Plan, StageMemory, part_shape
from sppo.planner.report.wording import counted, ranges

T = TypeVar("T", bound=Hashable)

WIDTH = 100
BAR = 40
FREE = "."

SHOWN_SHARE = 0.0005

DECISION_LINES = 12
"""Lines of decisions for model chunks that are equal; the plan's JSON has all of them."""

Kinds = Mapping[str, Callable[[StageMemory], int]]
"""Kind of memory -> its bytes. Kinds in a bar begin with their letter; LEGEND explains them."""

LEGEND = (
    ("M", "model state: weights, gradients, optimizer", "S", "staging: buffers of messages"),
    ("K", "KV: keys, values (on the host: dKV too)", "T", "temporary: of one compute alone"),
    ("D", "dKV: gradients of KV", "C", "constants: position tables, token ids"),
    ("A", "saved tensors on the device", "U", "untracked: device bytes of no tensor"),
    ("H", "saved tensors in host memory", FREE, "free"),
)
"""Letters of the bars, in two columns."""

DEVICE_KINDS: Kinds = {
    "M state": lambda memory: memory.weights + memory.gradients + memory.optimizer,
    "K KV": lambda memory: memory.kv,
    "D dKV": lambda memory: memory.dkv,
    "A saved": lambda memory: memory.kept,
    "S staging": lambda memory: memory.staging,
    "T temporary": lambda memory: memory.temporary,
    "C constants": lambda memory: memory.constants,
    "U untracked": lambda memory: memory.untracked.charged,
}
"""The sum of all kinds is `StageMemory.device_peak`."""

HOST_KINDS: Kinds = {
    "K KV and dKV": lambda memory: memory.kv_host,
    "H offloaded": lambda memory: memory.host,
}

UNTRACKED_KINDS: Kinds = {
    "machine code": lambda memory: memory.untracked.code,
    "kernel scratch": lambda memory: memory.untracked.scratch,
    "matrix workspaces": lambda memory: memory.untracked.workspaces,
    "communicators": lambda memory: memory.untracked.communicators,
    "rounding": lambda memory: memory.untracked.process,
    "outside the limit": lambda memory: memory.untracked.reserved,
}


def plan_card(
    plan: Plan, profile: Hardware, workload: Workload, shares: TimeShares | None = None
) -> str:
    """The plan as text. `workload` is the one that was planned: it has the limits and FLOPs.

    shares: of its time, if they are known.
    """
    shares = shares or time_shares(plan, profile)
    size = f"{plan.sequences_per_step} x {plan.sequence_tokens:,} tokens a step"
    sections = {
        f"Plan of {plan.workload}: {plan.model.name}, {size}": _head(plan, profile, workload),
        "Where the time goes (simulated; shares of all stages' time)": _time_rows(shares),
        "Kinds of memory": LEGEND,
        "Predicted peak memory of a rank (full bar: the limit, or without it the fullest stage)": [
            *_bars(plan, "device", DEVICE_KINDS, workload.device_memory_bytes),
            *_bars(plan, "host", HOST_KINDS, workload.host_memory_bytes),
        ],
        "Device memory by kind": _sizes(plan, DEVICE_KINDS),
        "Untracked device memory by cause": _sizes(plan, UNTRACKED_KINDS),
        "Host memory by kind": _sizes(plan, HOST_KINDS),
        "Decisions on saved tensors (all others stay on the device; head: output layer and loss)": (
            _decisions(plan)
        ),
        "Why (simulated: by the whole step; at least: by a lower bound of it)": [
            ("-", reason) for reason in plan.reasons
        ],
        "Rejected (layouts that do not fit)": [("-", layout) for layout in plan.rejected],
    }
    tables = {title: _table(rows) for title, rows in sections.items()}
    return "\n\n".join(f"{title}\n{table}" for title, table in tables.items() if table)


def _table(rows: Iterable[Sequence[str]]) -> str:
    """Indented columns, with cells wrapped to fit WIDTH; empty without rows."""
    from rich.console import Console
    from rich.padding import Padding
    from rich.table import Table

    table = Table.grid(padding=(0, 2, 0, 0))
    for row in rows:
        table.add_row(*row)
    console = Console(width=WIDTH, color_system=None, markup=False, emoji=False, highlight=False)
    with console.capture() as capture:
        console.print(Padding(table, (0, 0, 0, 2)))
    return "\n".join(line.rstrip() for line in capture.get().rstrip().splitlines())


def _head(plan: Plan, profile: Hardware, workload: Workload) -> Iterator[tuple[str, str]]:
    seconds = plan.makespan_seconds
    rate = workload.tokens_per_step / seconds / plan.ranks
    peak = profile.peak_flops_per_second
    share = step_flops(workload).causal / (seconds * plan.ranks * peak)
    unit, name = (1e12, "TFLOP/s") if peak >= 1e12 else (1e9, "GFLOP/s")
    lengths = sorted({min(plan.lengths_tokens), max(plan.lengths_tokens)}, reverse=True)
    between = " .. ".join(f"{length:,}" for length in lengths)
    yield "hardware", f"{plan.ranks} ranks of {profile.name}, {profile.kind} profile"
    yield "layout", f"{plan.degrees_words}, {counted(plan.virtual_stages, 'model chunk')} a stage"
    yield "", "SP: ranks that share a stage; PP: stages; DP: replicas of the pipeline"
    if plan.sharded_weights:
        yield (
            "",
            f"weights of blocks in {plan.weight_copies} pieces, gathered for each block's compute",
        )
    if plan.exchange_pieces > 1:
        pieces = plan.exchange_pieces
        yield "", f"all-to-alls in {pieces} pieces, one while attention computes another"
    yield "cut", f"each sequence in N {plan.subsequences} subsequences of {between} tokens"
    if plan.kv_block_tokens:
        blocks = f"in blocks of {plan.kv_block_tokens:,} tokens"
        yield "", f"keys, values and their gradients (KV, dKV) in host memory, {blocks}"
    if plan.msp_splits:
        yield "MSP", "multiplexed sequence partitioning: waiting ranks compute slices of neighbours"
    for end in dict.fromkeys(split.fills for split in plan.msp_splits):
        splits = [split for split in plan.msp_splits if split.fills == end]
        numbers = ranges(split.part for split in splits)
        chunks = f"{'chunk' if numbers.isdecimal() else 'chunks'} {numbers}"
        subsequences = counted(sum(len(split.subsequences) for split in splits), "subsequence")
        most = max(len(split.ranks) for split in splits)
        when = "fills" if end else "drains"
        yield "", f"{chunks}: {subsequences} in up to {most} slices as the pipeline {when}"
    yield (
        "simulated",
        f"forward + backward {seconds:.3f} s, bubble share {plan.bubble_share:.1%} (idle)",
    )
    tgs = f"{rate:,.1f} tokens per second per rank (TGS)"
    yield "", f"{tgs}, MFU (causal) {share:.1%} of {peak / unit:,.1f} {name} peak"
    yield "", f"from the {profile.kind} profile {profile.name}; without the optimizer"


TIME_WORDS = {
    "kernels": "kernels at the profile's best rates: the share of the kernel limit",
    "short_kernels": "slower kernels of short subsequences, overhead of layers",
    "recomputation": "recomputation of saved tensors",
    "collectives": "collectives inside a stage",
    "copies": "copies to and from host memory that nothing hides",
    "messages": "messages between stages",
    "idle": "idle: the pipeline fills and drains, stages wait for each other",
    "other": "zeros of dK and dV, gradients of helpers",
    "reduction": "sums of gradients over copies of the weights",
}


def _time_rows(shares: TimeShares) -> Iterator[tuple[str, str]]:
    """Shares that are not zero as shown."""
    for name, share in shares.rows:
        if abs(share) >= SHOWN_SHARE:
            yield f"{share:.1%}", TIME_WORDS[name]


def _bars(plan: Plan, tier: str, kinds: Kinds, limit: int | None) -> Iterator[tuple[str, ...]]:
    """A row for stages of equal memory; without a limit a full bar is the fullest stage."""
    groups = _equal(stage.memory for stage in plan.stages)
    totals = [sum(size(memory) for size in kinds.values()) for memory in groups]
    full = max(limit or 1, *totals)
    words = "no limit" if limit is None else f"limit {format_bytes(limit)}"
    yield "stages", "layers", f"{tier}, {words}", "used", "free"
    for (memory, stages), total in zip(groups.items(), totals, strict=True):
        free = "-" if limit is None else format_bytes(limit - total)
        if limit is not None and total > limit:
            free = f"{format_bytes(total - limit)} OVER THE LIMIT"
        layers = sorted(layer for stage in stages for layer in plan.stages[stage].layers)
        drawn = bar({kind[0]: size(memory) for kind, size in kinds.items()}, full)
        yield ranges(stages), ranges(layers), f"[{drawn}]", format_bytes(total), free


def bar(sizes: Mapping[str, int], full: int) -> str:
    """BAR characters: the sizes in their order, each to the nearest character, then free ones.

    A size above zero has at least one character, taken from the largest.
    """
    counts: dict[str, int] = {}
    reached = 0
    for letter, size in sizes.items():
        reached += size
        counts[letter] = min(BAR, round(BAR * reached / full)) - sum(counts.values())
    for letter, size in sizes.items():
        if size and not counts[letter]:
            counts[letter] = 1
            largest = max(counts, key=lambda key: counts[key])
            counts[largest] -= int(counts[largest] > 1)
    return "".join(letter * count for letter, count in counts.items()).ljust(BAR, FREE)


def _sizes(plan: Plan, kinds: Kinds) -> Iterator[tuple[str, ...]]:
    """A column for each kind that a stage has, a row for stages of the same sizes."""
    memories = [stage.memory for stage in plan.stages]
    shown = [kind for kind in kinds if any(kinds[kind](memory) for memory in memories)]
    if shown:
        yield "stages", *shown
        rows = [tuple(format_bytes(kinds[kind](memory)) for kind in shown) for memory in memories]
        for row, stages in _equal(rows).items():
            yield ranges(stages), *row


def _equal(values: Iterable[T]) -> dict[T, list[int]]:
    """The different values, each with its positions."""
    positions: dict[T, list[int]] = {}
    for position, value in enumerate(values):
        positions.setdefault(value, []).append(position)
    return positions


def _decisions(plan: Plan) -> Iterator[tuple[str, ...]]:
    """Rows by subsequence, for each group of model chunks with the same decisions."""
    yield "chunks", "layers", "subsequences", "recomputed", "offloaded"
    decisions = [
        (len(part.layer_range), tuple(zip(part.recompute_units, part.offload_units, strict=True)))
        for part in plan.parts
    ]
    block_order = part_shape(plan, 0).saved_tensors
    for (layers, by_subsequence), chunks in _equal(decisions).items():
        owned = ranges(layer for chunk in chunks for layer in plan.parts[chunk].layer_range)
        names = ranges(chunks), owned or "head"
        rows = list(_equal(by_subsequence).items())
        for (recomputed, offloaded), subsequences in rows[:DECISION_LINES]:
            recompute = [name for name in block_order if name in recomputed and layers]
            offload = list(_with_layers(offloaded, layers))
            columns = (", ".join(tensors) or "-" for tensors in (recompute, offload))
            yield *names, ranges(subsequences), *columns
            names = "", ""
        if len(rows) > DECISION_LINES:
            yield "", "", f"{len(rows) - DECISION_LINES} more: see --json"


def _with_layers(offloaded: Iterable[tuple[int, str]], layers: int) -> Iterator[str]:
    """Names of the offloaded tensors, and in how many layers where it is not in all."""
    for name in dict.fromkeys(name for _, name in offloaded):
        numbers = [layer for layer, key in offloaded if key == name]
        whole = len(numbers) == layers or layers in numbers  # the head's come after the layers
        yield name if whole else f"{name} in {len(numbers)} of {layers} layers"
