"""Fig. 8: schedules with full offload, adaptive offload and MSP, and the bytes that they keep."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import accumulate
from typing import Any

from benchmarks.paper import reported
from benchmarks.paper.items.item import Comparison, Item, Point, Table
from benchmarks.paper.items.profile import kernel_limit_share, source_words, testbed
from benchmarks.paper.items.sppo_steps import paper_layout
from benchmarks.paper.offload_ablation import ADAPTIVE, FULL, MSP, SPARE_MEMORY_BYTES, Variant
from benchmarks.paper.reported import ReportedPoint
from benchmarks.reporting import style
from benchmarks.reporting.simulated_step import checked_simulation, of_unit_costs
from sppo.config.sizes import GIB
from sppo.cost_model.msp import plan_slice_costs
from sppo.cost_model.plan_costs import plan_costs
from sppo.plan.layout import Degrees
from sppo.plan.plan import Plan
from sppo.planner.activations import policies
from sppo.planner.evaluate import plan_of
from sppo.planner.msp import with_msp
from sppo.schedule.instructions import Op
from sppo.schedule.simulation import Cause, Event, Simulation

LENGTHS = ("128K", "320K", "512K")

LENGTH = LENGTHS[1]
"""Drawn: early subsequences take longer to copy than to compute, and MSP pays."""

SUBSEQUENCES = 8
"""Few, so that each can be seen."""

VARIANTS = (FULL, ADAPTIVE, MSP)

PAPERS_BUBBLE = (4, 16, 3 / 16)
"""PP, N and the bubble ratio that the paper prints for them."""


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """One variant's plan and its simulated step, on a device that no variant fills."""

    variant: Variant
    plan: Plan
    step: Simulation


def make() -> Item:
    """The item. Raises OSError."""
    place = replace(reported.points()[0], seq=LENGTH)
    schedules = [schedule_of(variant, place) for variant in VARIANTS]
    stages, count, papers = PAPERS_BUBBLE
    bubble = of_unit_costs(pipeline_parallel=stages, subsequences=count).bubble_ratio_paper
    seconds = {seq: _seconds(replace(place, seq=seq)) for seq in LENGTHS}
    return Item(
        key="fig8",
        title=f"Fig. 8: schedules of {place.model}, {place.seq}, PP 4, N {SUBSEQUENCES}",
        compares="bubble ratio at PP 4, N 16; schedules and bytes of three variants",
        points=[point for schedule in schedules for point in _points(schedule, place)],
        comparisons=[
            Comparison(
                what=f"bubble ratio at PP {stages}, N {count}, unit costs",
                ours=bubble,
                ours_label="simulated",
                paper=papers,
                form="{:.4f}",
            )
        ],
        agreement=f"bubble ratio {bubble:.4f}, in the paper 3/16",
        verdict=_verdict(seconds),
        notes=[
            f"SP 8 x PP 4 on 32 A100, N {SUBSEQUENCES}, one chunk a stage, {place.seq} tokens. "
            "Memory is set so large that no variant is refused.",
            "Bytes are saved tensors without K and V. A reload counts from the start of its copy.",
            "`sppo-bench timeline --pp 4 --n 8 --model gpt-7b --seq 320K --gpus 32 --hardware "
            "a100-80g` draws a step with all its lanes.",
        ],
        tables=[_table(schedules), _by_length(seconds)],
        draw=lambda figure: _draw(figure, schedules),
        inches=(11.0, 5.6),
        drawn_source=f"simulated · {source_words()} · numbers: subsequences",
    )


def _verdict(seconds: Mapping[str, Sequence[float]]) -> str:
    """seconds: by length the steps of the variants, full offload, adaptive and MSP."""
    ordered = [seq for seq, steps in seconds.items() if steps[0] > steps[1] > steps[2]]
    equal = [seq for seq, steps in seconds.items() if steps[0] <= steps[1]]
    slower = [seq for seq, steps in seconds.items() if steps[1] <= steps[2]]
    return (
        f"The paper's order (full, then adaptive, then MSP) holds at {_words(ordered)} of "
        f"{', '.join(seconds)}. Adaptive offload gains nothing at {_words(equal)}, MSP at "
        f"{_words(slower)}."
    )


def _words(lengths: Sequence[str]) -> str:
    return ", ".join(lengths) or "none"


def schedule_of(variant: Variant, place: ReportedPoint) -> Schedule:
    """A variant of fig. 11 in the first layout of table 4, with few subsequences."""
    workload = place.workload().with_device_memory(SPARE_MEMORY_BYTES)
    workload = replace(workload, host_memory_bytes=SPARE_MEMORY_BYTES)
    degrees = Degrees(place.sequence_parallel, place.pipeline_parallel, 1)
    layout = paper_layout(workload, degrees, SUBSEQUENCES, testbed())
    choose = partial(policies.choose, policy=variant.policy)
    plan = plan_of(layout, choose)
    if variant.msp:
        plan = with_msp(plan, [layout], choose, wanted=True).plan
    return Schedule(variant=variant, plan=plan, step=checked_simulation(plan, testbed()))


def _seconds(place: ReportedPoint) -> list[float]:
    """The step of every variant."""
    return [schedule_of(variant, place).step.makespan / 1e9 for variant in VARIANTS]


def saved_curve(schedule: Schedule, stage: int) -> list[tuple[int, int]]:
    """(nanoseconds, live bytes of saved tensors) of one rank of a stage, after every change."""
    changes = sorted(_changes(schedule, stage), key=lambda change: change[0])
    times = [time for time, _ in changes]
    return list(zip(times, accumulate(change for _, change in changes), strict=True))


def _changes(schedule: Schedule, stage: int) -> Iterator[tuple[int, int]]:
    costs = plan_costs(schedule.plan, testbed())
    slices = plan_slice_costs(schedule.plan, testbed()).kept_bytes
    held = {
        wait.instruction: wait.end
        for wait in schedule.step.waits
        if wait.stage == stage and wait.cause is Cause.OFFLOAD
    }
    for event in schedule.step.events:
        if event.stage != stage:
            continue
        instruction = event.instruction
        part, index = instruction.part, instruction.subsequence
        saved = slices.get(
            (Op.FORWARD, part, index, instruction.slice), costs[part].kept_bytes[index]
        )
        match instruction.op:
            case Op.FORWARD:
                yield max(event.end, held.get(instruction, 0)), saved
            case Op.BACKWARD:
                yield event.end, -saved
            case Op.OFFLOAD:
                yield event.end, -costs[part].offloaded_bytes[index]
            case Op.RELOAD:
                yield event.start, costs[part].offloaded_bytes[index]


def _points(schedule: Schedule, place: ReportedPoint) -> Iterator[Point]:
    step, plan = schedule.step, schedule.plan
    layout = f"{plan.degrees_words}, N {plan.subsequences}, policy {schedule.variant.policy}"
    values = (
        ("step", "s", step.makespan / 1e9),
        ("bubble share", "", step.bubble_share),
        ("exposed copies, stage with most", "s", max(step.exposed_copies) / 1e9),
        ("peak of saved tensors, fullest stage", "GiB", max(step.kept_peak_bytes) / GIB),
    )
    for quantity, unit, value in values:
        share = None
        if quantity == "step":
            share = kernel_limit_share(place.workload(), value)
        yield Point(
            series=schedule.variant.name,
            place=f"{place.model}, {place.seq}",
            quantity=quantity,
            unit=unit,
            value=value,
            label="simulated",
            source=source_words(),
            settings=layout,
            kernel_limit_share=share,
        )


def _table(schedules: Sequence[Schedule]) -> Table:
    rows = [
        [
            schedule.variant.name,
            f"{schedule.step.makespan / 1e9:.2f} s",
            f"{schedule.step.bubble_share:.1%}",
            f"{max(schedule.step.exposed_copies) / 1e9:.2f} s",
            f"{max(schedule.step.kept_peak_bytes) / GIB:.2f} GiB",
        ]
        for schedule in schedules
    ]
    titles = ["variant", "step", "bubble share", "exposed copies", "peak of saved tensors"]
    return Table(heading="Simulated steps", titles=titles, rows=rows, align="lrrrr")


def _by_length(seconds: Mapping[str, Sequence[float]]) -> Table:
    rows = [[seq, *(f"{step:.2f} s" for step in steps)] for seq, steps in seconds.items()]
    titles = ["tokens", *(variant.name for variant in VARIANTS)]
    return Table(heading="Steps by length", titles=titles, rows=rows, align="lrrr")


def _draw(figure: Any, schedules: Sequence[Schedule]) -> None:
    grid = figure.subplots(
        2, len(schedules), sharex=True, sharey="row", height_ratios=[1.2, 1.0], squeeze=False
    )
    longest = max(schedule.step.makespan for schedule in schedules) / 1e9
    for column, schedule in enumerate(schedules):
        above, below = grid[:, column]
        _draw_computes(above, schedule)
        _draw_bytes(below, schedule)
        above.set_title(schedule.variant.name)
        below.set_xlim(0, longest * 1.01)
        below.set_xlabel("s")
    grid[0, 0].invert_yaxis()
    grid[1, 0].set_ylim(bottom=0)
    grid[1, 0].set_ylabel("saved tensors of a rank, GiB")


def _draw_computes(axes: Any, schedule: Schedule) -> None:
    stages = schedule.plan.pipeline_parallel
    longest = schedule.step.makespan / 1e9
    for name, op in (("forward", Op.FORWARD), ("backward", Op.BACKWARD)):
        colour, _ = style.INSTRUCTIONS[name]
        for stage in range(stages):
            shown = [
                event
                for event in schedule.step.events
                if event.stage == stage and event.instruction.op is op
            ]
            axes.broken_barh(
                [_span(event) for event in shown],
                (stage - 0.4, 0.8),
                facecolors=colour,
                edgecolors=style.PAPER,
                linewidth=0.4,
                label="" if stage else name,
            )
            for event in shown:
                _number(axes, event, stage, longest)
    axes.set_yticks(range(stages), [f"stage {stage}" for stage in range(stages)])
    axes.grid(visible=False)


def _span(event: Event) -> tuple[float, float]:
    return event.start / 1e9, (event.end - event.start) / 1e9


def _number(axes: Any, event: Event, stage: int, longest: float) -> None:
    start, length = _span(event)
    if length > 0.025 * longest:
        text = str(event.instruction.subsequence)
        options = {"color": style.PAPER, "fontsize": 6.0, "ha": "center", "va": "center"}
        axes.text(start + length / 2, stage, text, **options)


def _draw_bytes(axes: Any, schedule: Schedule) -> None:
    last = schedule.plan.pipeline_parallel - 1
    for stage, line, category in ((0, "-", "forward"), (last, "--", "offload")):
        curve = [(0, 0), *saved_curve(schedule, stage)]
        axes.step(
            [time / 1e9 for time, _ in curve],
            [size / GIB for _, size in curve],
            where="post",
            color=style.INSTRUCTIONS[category][0],
            linestyle=line,
            linewidth=1.1,
            label=f"saved tensors, stage {stage}",
        )
