"""Fig. 6: lifetimes of the tensors of one layer, from the plan and a measured step of SPPO."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from benchmarks.paper.items.item import Item, NotCommitted, Point, Table
from benchmarks.records import provenance, timeline
from benchmarks.records.store import published_directory
from benchmarks.records.timeline import MeasuredLaunch
from benchmarks.reporting import style
from sppo.config.sizes import MIB
from sppo.plan.blocks import block_of
from sppo.plan.plan import part_shape
from sppo.schedule.instructions import Op

RUN = "tiny-cpu-136MiB"
"""The published run whose first launch of SPPO is shown."""

PART = 2
"""The chunk that is shown: one layer, in the middle of the model, without MSP."""

DRAWN = 2
"""The subsequence that is drawn."""

BEGIN, STAY = "from the step's begin to this stay", "length of this stay"

Span = tuple[float, float]
"""Milliseconds since the step's first instruction: begin and end."""


@dataclass(frozen=True, kw_only=True)
class Lifetime:
    """One tensor of one subsequence: its bytes, and where it lies when."""

    subsequence: int
    tensor: str
    decision: str
    size_bytes: int
    device: Sequence[Span]
    host: Sequence[Span]


def make() -> Item:
    """The item. Raises NotCommitted where the published run is not there, RecordError."""
    launch = _launch()
    known = list(lifetimes(launch))
    drawn = [each for each in known if each.subsequence == DRAWN]
    states = {tensor.name for tensor in block_of(launch.plan.model).state}
    counts = {
        decision: sum(each.decision == decision for each in drawn)
        for decision in dict.fromkeys(each.decision for each in drawn)
    }
    where = provenance.measured_on(launch.record)
    return Item(
        key="fig6",
        title=f"Fig. 6: lifetimes of one layer's tensors, subsequence {DRAWN}, tiny-cpu",
        compares="which tensors outlive their subsequence's forward (sec. 5.1)",
        points=[point for each in known for point in _points(each, launch)],
        agreement=(
            f"nothing to compare: by the plan {len(states)} tensors (K and V) stay for later "
            f"subsequences, {len(drawn) - len(states)} end with their own backward"
        ),
        verdict=(
            "Instruction times are measured, lifetimes follow from the plan. By the plan K and V "
            "stay until the last backward, as the paper says. Other tensors end with the backward "
            "of their subsequence: "
            + ", ".join(f"{count} {name}" for name, count in counts.items() if name != "state")
            + "."
        ),
        notes=[
            f"A measured step: launch {launch.record.launch} of SPPO in "
            f"`results/published/{RUN}`, {where}. Times of instructions are "
            "measured. Which instructions begin and end a stay is the plan's decision, not an "
            "observation of memory.",
            f"Layer {launch.plan.parts[PART].layers[0]}, one of four, width "
            f"{launch.plan.model.hidden}; lengths {_lengths(launch)}.",
            "A recomputed tensor exists in its forward and in its backward. Bytes are those of "
            "the plan, which equal the counted ones.",
        ],
        tables=[_table(drawn)],
        draw=lambda figure: _draw(figure, drawn),
        inches=(10.0, 4.6),
        drawn_source=f"instruction times measured, lifetimes from the plan · {where}",
    )


@cache
def _launch() -> MeasuredLaunch:
    folder = published_directory() / RUN
    if not folder.is_dir():
        raise NotCommitted(
            f"{folder} is not there: `sppo-bench run tiny-cpu --publish` makes it in a checkout"
        )
    return timeline.find_measured(folder)


def _lengths(launch: MeasuredLaunch) -> str:
    return ", ".join(f"{tokens:,}" for tokens in launch.plan.lengths_tokens)


def lifetimes(launch: MeasuredLaunch) -> Iterator[Lifetime]:
    """Every tensor of the chunk's first layer, by subsequence."""
    plan = launch.plan
    shape, chunk = part_shape(plan, PART), plan.parts[PART]
    block = block_of(plan.model)
    spans = _spans(launch)
    end = max(spans[Op.BACKWARD, index][1] for index in range(len(plan.lengths_tokens)))
    for index, tokens in enumerate(plan.lengths_tokens):
        born, saved = spans[Op.FORWARD, index]
        read, gone = spans[Op.BACKWARD, index]
        for state in block.state:
            yield Lifetime(
                subsequence=index,
                tensor=state.name,
                decision="state",
                size_bytes=tokens * state.elements * plan.element_bytes,
                device=[(born, end)],
                host=[],
            )
        for name, tensor in block.saved_tensors_by_name.items():
            device, host, decision = [(born, gone)], list[Span](), "kept"
            if name in chunk.recompute_units[index]:
                device, decision = [(born, saved), (read, gone)], "recomputed"
            elif (0, name) in chunk.offload_units[index]:
                out, back = spans[Op.OFFLOAD, index], spans[Op.RELOAD, index]
                device = [(born, out[1]), (back[0], gone)]
                host, decision = [(out[0], back[1])], "offloaded"
            yield Lifetime(
                subsequence=index,
                tensor=name,
                decision=decision,
                size_bytes=shape.saved_tensor_bytes(tensor, tokens),
                device=device,
                host=host,
            )


def _spans(launch: MeasuredLaunch) -> dict[tuple[Op, int], Span]:
    """Milliseconds of the chunk's instructions, by kind and subsequence."""
    rank = PART % launch.plan.pipeline_parallel * launch.plan.sequence_parallel
    start_ns, _ = timeline.span_ns(launch.timelines)
    spans = {}
    for event in launch.timelines[rank]:
        instruction = event.instruction
        if instruction.part == PART and instruction.op.lane != "p2p":
            span = (event.start_ns - start_ns) / 1e6, (event.end_ns - start_ns) / 1e6
            spans[instruction.op, instruction.subsequence] = span
    return spans


def _points(each: Lifetime, launch: MeasuredLaunch) -> Iterator[Point]:
    where = provenance.measured_on(launch.record)
    for place, spans in (("device", each.device), ("host tier", each.host)):
        for number, (begin, end) in enumerate(spans, start=1):
            for quantity, value in ((BEGIN, begin), (STAY, end - begin)):
                yield Point(
                    series=f"subsequence {each.subsequence}: {each.tensor}",
                    place=f"{place}, stay {number}",
                    quantity=quantity,
                    unit="ms",
                    value=value,
                    label="measured",
                    source=f"results/published/{RUN}, {where}; lifetimes from the plan",
                    settings=f"{each.decision}, {each.size_bytes} bytes",
                )


def _table(drawn: Sequence[Lifetime]) -> Table:
    rows = [
        [
            each.tensor,
            each.decision,
            f"{each.size_bytes / MIB:.2f} MiB",
            _length(each.device),
            _length(each.host) if each.host else "-",
        ]
        for each in drawn
    ]
    titles = ["tensor", "decision", "bytes", "on the device", "in the host tier"]
    return Table(heading=f"Subsequence {DRAWN}", titles=titles, rows=rows, align="llrrr")


def _length(spans: Sequence[Span]) -> str:
    return f"{sum(end - begin for begin, end in spans):.0f} ms"


def _draw(figure: Any, drawn: Sequence[Lifetime]) -> None:
    axes = figure.add_subplot()
    device, _ = style.INSTRUCTIONS["forward"]
    host, _ = style.INSTRUCTIONS["offload"]
    for row, each in enumerate(drawn):
        for label, spans, colour, height in (
            ("on the device", each.device, device, 0.6),
            ("in the host tier", each.host, host, 0.3),
        ):
            if spans:
                boxes = [(begin, end - begin) for begin, end in spans]
                place = (row - height / 2, height)
                axes.broken_barh(boxes, place, facecolors=colour, label=label)
    axes.set_yticks(range(len(drawn)), [f"{each.tensor} ({each.decision})" for each in drawn])
    axes.invert_yaxis()
    axes.grid(axis="y", visible=False)
    axes.grid(axis="x", visible=True)
    axes.set_xlim(left=0)
    axes.set_xlabel("ms since the step's first instruction")
