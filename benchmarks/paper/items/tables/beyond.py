"""Beyond the paper: SPPO on further hardware, and what one more GB/s or GiB buys."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.paper.items import drawing
from benchmarks.paper.items.item import Item, NotCommitted, Point, Table
from benchmarks.paper.items.profile import kernel_limit_share, mfu
from benchmarks.paper.map import data, places
from benchmarks.paper.map.data import COMMITTED, MapData, MapPlan
from benchmarks.paper.map.places import Place
from benchmarks.reporting import style

QUANTITY, UNIT = "tokens a second and GPU", "tokens/s"

MORE = ("1 GB/s of host link", "1 GiB of device memory")

DRAWN_CHANGES = ("host link", "device memory")


@dataclass(frozen=True, kw_only=True)
class Priced:
    """A plan with a changed link or memory, beside the plan of the unchanged profile."""

    plan: MapPlan
    base: MapPlan

    @property
    def place(self) -> Place:
        """Where."""
        return self.plan.place

    @property
    def change(self) -> float | None:
        """The step over the unchanged one, less 1; None where no plan fits."""
        if self.plan.step_seconds is None or self.base.step_seconds is None:
            return None
        return self.plan.step_seconds / self.base.step_seconds - 1

    @property
    def units(self) -> float:
        """GB/s or GiB that the change adds; below 0 it takes away."""
        return self.place.value - places.value_of(self.base.place.profile, self.place.changed)

    @property
    def saved_milliseconds(self) -> float | None:
        """Of a step, for each GB/s or GiB more; None where no plan fits."""
        if self.change is None:
            return None
        assert self.base.step_seconds is not None
        return -1e3 * self.change * self.base.step_seconds / self.units

    @property
    def is_one_more(self) -> bool:
        """Whether the change is one GB/s or one GiB."""
        return abs(self.units - 1) < 1e-6


def make() -> Item:
    """The item. Raises NotCommitted where the map's data lacks a place; OSError, RecordError."""
    made = data.committed()
    base = [plan_of(made, place) for place in places.priced()]
    priced = [
        Priced(plan=plan_of(made, place), base=each)
        for each in base
        for place in places.changes_of(each.place)
    ]
    return Item(
        key="beyond",
        title=f"Beyond the paper: {places.MODEL} on further hardware",
        compares="SPPO on A100, H100, H200 and B200; the price of a GB/s of host link and of a GiB",
        points=[_point(each) for each in (*base, *(row.plan for row in priced))],
        agreement="nothing to compare with",
        verdict=_verdict(priced),
        notes=[
            "Each row is the solver's own plan, one sequence a step.",
            "All profiles are assumed. `b200fa4-180g` is a what-if: a B200 with the rates of "
            "FlashAttention-4, which the engine does not call.",
            "A layout either fits or does not. So the price of a GiB is a step, no slope: one more "
            "GiB helps only where it lets a faster layout fit.",
            f"Data: `{COMMITTED}`, made by `{data.COMMAND}`.",
        ],
        tables=[_hardware(base), _prices(priced), _changes(priced)],
        draw=lambda figure: _draw(figure, base, priced),
        inches=(11.0, 4.4),
        drawn_source="simulated · assumed profiles · one sequence a step",
    )


def plan_of(made: MapData, place: Place) -> MapPlan:
    """The committed plan. Raises NotCommitted."""
    plan = made.plan(place)
    if plan is None:
        raise NotCommitted(f"no plan at {place.name} is committed: `{data.COMMAND}` makes it")
    return plan


def _verdict(priced: Sequence[Priced]) -> str:
    changes = [row.change for row in priced if row.change is not None]
    refused = sum(row.change is None for row in priced)
    more = [row for row in priced if row.is_one_more and row.change is not None]
    gains = {
        kind: max(0.0, *(-(row.change or 0.0) for row in more if row.place.changed == kind))
        for kind in DRAWN_CHANGES
    }
    words = (
        f"One more GB/s of host link saves {gains['host link']:.2%} of a step at most, one more "
        f"GiB {gains['device memory']:.2%}. Half or twice of either changes the step by "
        f"{min(changes):+.1%} to {max(changes):+.1%}"
    )
    return f"{words}; {refused} of {len(priced)} changes leave no plan." if refused else f"{words}."


def rate(plan: MapPlan) -> float | None:
    """Tokens a second and GPU; None without a plan."""
    if plan.step_seconds is None:
        return None
    return plan.place.tokens / plan.step_seconds / plan.place.gpus


def _point(plan: MapPlan) -> Point:
    place = plan.place
    share = None
    if plan.step_seconds is not None:
        share = kernel_limit_share(place.workload, plan.step_seconds, place.profile)
    return Point(
        series=", ".join(part for part in (place.hardware, place.change) if part),
        place=place.cell,
        quantity=QUANTITY,
        unit=UNIT,
        value=rate(plan),
        outcome="" if plan.status == "ok" else plan.status,
        label="simulated",
        source=f"{COMMITTED}, commit {plan.commit[:9]}, profile {place.hardware} (assumed)",
        settings=plan.settings_text,
        kernel_limit_share=share,
    )


def _hardware(base: Sequence[MapPlan]) -> Table:
    rows = [
        [
            plan.place.cell,
            plan.place.hardware,
            f"{plan.step_seconds:.2f} s",
            f"{rate(plan):,.0f}",
            f"{mfu(plan.place.workload, plan.step_seconds, plan.place.profile):.1%}",
            f"{kernel_limit_share(plan.place.workload, plan.step_seconds, plan.place.profile):.0%}",
            plan.settings_text,
        ]
        for plan in base
        if plan.step_seconds is not None
    ]
    each = f"{UNIT} and GPU"
    titles = ["place", "hardware", "step", each, "MFU, causal", "of the kernel limit", "plan"]
    return Table(heading="Hardware", titles=titles, rows=rows, align="llrrrrl")


def _prices(priced: Sequence[Priced]) -> Table:
    rows = [
        [
            row.place.cell,
            row.place.hardware,
            _one_more(row.place),
            "no plan" if row.change is None else f"{row.change + 0.0:.3%}",
            "" if row.saved_milliseconds is None else f"{round(row.saved_milliseconds):,} ms",
        ]
        for row in priced
        if row.is_one_more
    ]
    titles = ["place", "hardware", "one more", "step changes by", "saves a step"]
    return Table(heading="What one more unit buys", titles=titles, rows=rows, align="lllrr")


def _changes(priced: Sequence[Priced]) -> Table:
    rows = [
        [
            row.place.cell,
            row.place.hardware,
            row.place.change,
            "no plan" if row.plan.step_seconds is None else f"{row.plan.step_seconds:.2f} s",
            "" if row.change is None else f"{row.change:+.2%}",
            row.plan.settings_text,
        ]
        for row in priced
        if not row.is_one_more
    ]
    titles = ["place", "hardware", "changed", "step", "change", "plan"]
    return Table(heading="Half and twice", titles=titles, rows=rows, align="lllrrl")


def _draw(figure: Any, base: Sequence[MapPlan], priced: Sequence[Priced]) -> None:
    left, right = figure.subplots(1, 2)
    first = base[0].place.cell
    points = [_point(plan) for plan in base if plan.place.cell == first]
    looks = dict(zip(places.HARDWARE, _looks(), strict=True))
    drawing.grouped_bars(left, points, looks, form="{:,.0f}")
    left.set_ylabel(QUANTITY)
    rows = [row for row in priced if row.is_one_more]
    prices = list(_price_points(rows))
    drawing.grouped_bars(
        right,
        prices,
        dict(zip(MORE, _price_looks(), strict=True)),
        form="{:.2f} %",
        upright=True,
    )
    right.set_ylim(bottom=min([0.0, *(1.2 * (price.value or 0.0) for price in prices)]))
    right.set_ylabel("% of a step that one more unit saves")


def _looks() -> Iterator[drawing.Look]:
    yield drawing.OURS
    yield drawing.OURS_IN_THE_PAPERS_PLAN
    yield drawing.WHAT_IF
    yield drawing.PAPERS
    yield {**drawing.PAPERS, "hatch": "xxx"}


def _price_looks() -> Iterator[drawing.Look]:
    """Unlike any kind of hardware."""
    for kind, hatch in (("kv", "..."), ("weights", "\\\\\\")):
        yield {"facecolor": style.KINDS[kind][0], "edgecolor": style.PAPER, "hatch": hatch}


def _one_more(place: Place) -> str:
    return dict(zip(DRAWN_CHANGES, MORE, strict=True))[place.changed]


def _price_points(rows: Sequence[Priced]) -> Iterator[Point]:
    """What one more unit saves, in per cent; below 0 where the plan is slower."""
    for row in rows:
        point = _point(row.plan)
        where = row.place.cell.replace(" GPUs", "").replace(", ", "/")
        yield Point(
            series=_one_more(row.place),
            place=f"{where}\n{row.place.hardware.split('-')[0]}",
            quantity="saved",
            unit="%",
            value=None if row.change is None else round(-100 * row.change, 4) + 0.0,
            outcome="" if row.change is not None else "no plan",
            label="simulated",
            source=point.source,
        )
