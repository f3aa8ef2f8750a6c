"""Beyond the paper: SPPO on further hardware, and what a faster host link or more memory buys."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from benchmarks.paper.items import drawing
from benchmarks.paper.items.item import Item, Point, Table
from benchmarks.paper.items.profile import kernel_limit_share, mfu
from benchmarks.workloads import of_flags
from sppo.config.hardware import Hardware, load_hardware
from sppo.config.sizes import GIB
from sppo.config.workload import Workload
from sppo.plan.plan import Plan
from sppo.planner.options import SolverOptions
from sppo.planner.report.wording import counted
from sppo.planner.solve import solve

MODEL = "gpt-7b"

PLACES = (("512K", 16), ("1M", 32))
"""Length and GPUs."""

HARDWARE = ("a100-80g", "h100-80g", "h200-141g")

CHANGED = HARDWARE[0]
"""The profile whose link and memory are changed."""

LINK_FACTORS = (0.5, 2.0)

MEMORY_GIB = (60.0, 137.0)
"""The second is about what an H200 leaves to a plan."""

GB = 10**9

QUANTITY, UNIT = "tokens a second and GPU", "tokens/s"


@dataclass(frozen=True, kw_only=True)
class Planned:
    """One plan: where, on what, and what was changed of the profile, in words.

    units: GB/s of the link, or GiB of the device, that the change adds; below 0 it takes away.
    """

    place: str
    hardware: str
    change: str
    units: float
    workload: Workload
    profile: Hardware
    plan: Plan

    @property
    def rate(self) -> float:
        """Tokens a second and GPU."""
        return self.workload.tokens_per_step / self.seconds / self.workload.cluster.ranks

    @property
    def seconds(self) -> float:
        """The simulated step."""
        return self.plan.makespan_seconds


def make() -> Item:
    """The item."""
    planned = [each for place in PLACES for each in plans_of(*place)]
    base = [each for each in planned if not each.change]
    changes = [_gain(each, base) for each in planned if each.change]
    most = max(changes, key=abs)
    return Item(
        key="beyond",
        title=f"Beyond the paper: {MODEL} on further hardware",
        compares="SPPO on A100, H100 and H200; other host links and device memories",
        points=[_point(each) for each in planned],
        agreement="nothing to compare with",
        verdict=(
            f"Half or twice the host link, and {MEMORY_GIB[0]:.0f} or "
            f"{MEMORY_GIB[1]:.0f} GiB of device memory, change the step by {most:+.1%} at most."
        ),
        notes=[
            "Each row is the solver's own plan, one sequence a step.",
            "H100 and H200 profiles are assumed, as A100's is.",
            "Peers are not in this table: their rows need emulations.",
        ],
        tables=[_hardware(base), _changes(planned, base)],
        draw=lambda figure: _draw(figure, base),
        drawn_source="simulated · assumed profiles · one sequence a step",
    )


def plans_of(seq: str, gpus: int) -> Iterator[Planned]:
    """The plans at one place: on all hardware, and with changes of one profile."""
    for hardware in HARDWARE:
        yield _planned(seq, gpus, hardware)
    for factor in LINK_FACTORS:
        yield _planned(seq, gpus, CHANGED, link_factor=factor)
    for memory in MEMORY_GIB:
        yield _planned(seq, gpus, CHANGED, memory_gib=memory)


def _planned(
    seq: str,
    gpus: int,
    hardware: str,
    *,
    link_factor: float | None = None,
    memory_gib: float | None = None,
) -> Planned:
    workload = of_flags(model=MODEL, seq=seq, gpus=gpus, hardware=hardware)
    profile = load_hardware(hardware)
    change, units = "", 0.0
    if link_factor is not None:
        rate = link_factor * profile.d2h_bytes_per_second
        units = (rate - profile.d2h_bytes_per_second) / GB
        profile = replace(profile, d2h_bytes_per_second=rate, h2d_bytes_per_second=rate)
        change = f"host link {rate / GB:g} GB/s"
    if memory_gib is not None:
        units = memory_gib - profile.usable_device_bytes / GIB
        workload = workload.with_device_memory(round(memory_gib * GIB))
        change = f"device memory {memory_gib:g} GiB"
    return Planned(
        place=f"{seq}, {counted(gpus, 'GPU')}",
        hardware=hardware,
        change=change,
        units=units,
        workload=workload,
        profile=profile,
        plan=solve(workload, profile, SolverOptions()),
    )


def _gain(each: Planned, base: Sequence[Planned]) -> float:
    """The change of the step against the unchanged profile."""
    return each.seconds / _unchanged(each, base).seconds - 1


def _unchanged(each: Planned, base: Sequence[Planned]) -> Planned:
    return next(
        other for other in base if (other.place, other.hardware) == (each.place, each.hardware)
    )


def _point(each: Planned) -> Point:
    share = kernel_limit_share(each.workload, each.seconds, each.profile)
    return Point(
        series=", ".join(part for part in (each.hardware, each.change) if part),
        place=each.place,
        quantity=QUANTITY,
        unit=UNIT,
        value=each.rate,
        label="simulated",
        source=f"profile {each.hardware} ({each.profile.kind})",
        settings=_words(each.plan),
        kernel_limit_share=share,
    )


def _words(plan: Plan) -> str:
    chunks = counted(plan.virtual_stages, "chunk")
    msp = ", MSP" if plan.msp_splits else ""
    hosted = ", K and V in the host tier" if plan.kv_block_tokens else ""
    return f"{plan.degrees_words}, N {plan.subsequences}, {chunks} a stage{msp}{hosted}"


def _hardware(base: Sequence[Planned]) -> Table:
    rows = [
        [
            each.place,
            each.hardware,
            f"{each.seconds:.2f} s",
            f"{each.rate:,.0f}",
            f"{mfu(each.workload, each.seconds, each.profile):.1%}",
            f"{kernel_limit_share(each.workload, each.seconds, each.profile):.0%}",
            _words(each.plan),
        ]
        for each in base
    ]
    rate = f"{UNIT} and GPU"
    titles = ["place", "hardware", "step", rate, "MFU, causal", "of the kernel limit", "plan"]
    return Table(heading="Hardware", titles=titles, rows=rows, align="llrrrrl")


def _changes(planned: Sequence[Planned], base: Sequence[Planned]) -> Table:
    rows = [
        [
            each.place,
            each.change,
            f"{each.seconds:.2f} s",
            f"{_gain(each, base):+.2%}",
            f"{_gain(each, base) / each.units:+.3%}",
            _words(each.plan),
        ]
        for each in planned
        if each.change
    ]
    titles = ["place", "changed", "step", "change", "for one more GB/s or GiB", "plan"]
    heading = f"Another link or memory, {CHANGED}"
    return Table(heading=heading, titles=titles, rows=rows, align="llrrrl")


def _draw(figure: Any, base: Sequence[Planned]) -> None:
    axes = figure.add_subplot()
    looks = dict(
        zip(HARDWARE, (drawing.OURS, drawing.OURS_IN_THE_PAPERS_PLAN, drawing.WHAT_IF), strict=True)
    )
    drawing.grouped_bars(axes, [_point(each) for each in base], looks, form="{:,.0f}")
    axes.set_ylabel(QUANTITY)
