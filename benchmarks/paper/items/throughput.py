"""Throughput of the systems at the 15 points, from a committed emulation (fig. 10)."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

from benchmarks.paper import reported
from benchmarks.paper.items import published
from benchmarks.paper.items.item import Comparison
from benchmarks.paper.items.profile import kernel_limit_share
from benchmarks.paper.items.sppo_steps import SimulatedStep, own_plan
from benchmarks.paper.verdicts import PaperPoints, Verdict
from sppo.config.sizes import parse_tokens

SAME, SPPO = "Megatron, the paper's SPPO degrees", "SPPO"
TUNED, DEEPSPEED, BY_HEADS = "Megatron, tuned degrees", "DeepSpeed", "DeepSpeed, SP = heads"
"""Names of rows."""

NEAR = 0.15
"""The difference up to which a ratio agrees with the paper's."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One system at one point, with its simulated step."""

    verdict: Verdict
    sequences_per_step: int
    source: str

    @property
    def place(self) -> str:
        """ "gpt-7b, 512K"."""
        return f"{self.verdict.model}, {self.verdict.seq}"

    @cached_property
    def seconds(self) -> float | None:
        """The step with exposed messages; None where the layout does not fit."""
        return self.verdict.step_seconds if self.verdict.status == "ok" else None

    @property
    def tokens_per_second(self) -> float | None:
        """Of the whole job."""
        return self._rate(self.seconds)

    @property
    def hidden_tokens_per_second(self) -> float | None:
        """The same if every message hides; None where the file has no such step."""
        hidden = self.verdict.step_seconds_if_hidden
        return None if self.seconds is None else self._rate(hidden)

    @property
    def idle_share(self) -> float:
        """Idle share of a pipeline of equal stages, one forward one backward."""
        if self.verdict.idle_share is not None:
            return self.verdict.idle_share
        return self.waits / (self.waits + self.sequences_per_step)

    @property
    def waits(self) -> int:
        """Slots in which a stage of the pipeline waits: PP - 1."""
        degree = re.search(r"PP(\d+)", self.verdict.settings_text)
        return int(degree[1]) - 1 if degree else 0

    def tokens_per_second_at(self, sequences_per_step: int) -> float | None:
        """Throughput with another number of sequences, in equal slots of one forward one backward.

        None where the layout does not fit.
        """
        rate = self.tokens_per_second
        if rate is None:
            return None
        slots = self.waits + self.sequences_per_step
        work = sequences_per_step / self.sequences_per_step
        return rate * work * slots / (self.waits + sequences_per_step)

    @property
    def limit_share(self) -> float | None:
        """The step's MFU over the most that the profile's kernels allow."""
        if self.seconds is None:
            return None
        workload = _point_of(self.verdict).workload(sequences_per_step=self.sequences_per_step)
        return kernel_limit_share(workload, self.seconds)

    def _rate(self, seconds: float | None) -> float | None:
        tokens = self.sequences_per_step * parse_tokens(self.verdict.seq)
        return None if not seconds else tokens / seconds


def rows_of(sequences_per_step: int, points: PaperPoints) -> list[Row]:
    """The rows of a committed emulation."""
    source = published.source("10", sequences_per_step, points)
    return [
        Row(verdict=verdict, sequences_per_step=sequences_per_step, source=source)
        for verdict in points.verdicts
    ]


def _point_of(verdict: Verdict) -> reported.ReportedPoint:
    return next(
        point
        for point in reported.points()
        if (point.model, point.seq, point.gpus) == (verdict.model, verdict.seq, verdict.gpus)
    )


def ratios_of(rows: Sequence[Row]) -> dict[str, tuple[Row, Row]]:
    """By point Megatron in the paper's SPPO degrees and SPPO, where both have a step."""
    by_name = {(row.verdict.rule_name, row.place): row for row in rows if row.seconds}
    return {
        place: (row, by_name[SPPO, place])
        for (name, place), row in by_name.items()
        if name == SAME and (SPPO, place) in by_name
    }


def over(megatron: Row, sppo: Row) -> float:
    """Megatron's step over SPPO's."""
    assert megatron.seconds is not None
    assert sppo.seconds is not None
    return megatron.seconds / sppo.seconds


def sppo_plan(row: Row) -> SimulatedStep:
    """SPPO's plan for one sequence a step, at the row's point."""
    return own_plan(f"{row.place}, {row.verdict.gpus} GPUs")


def sppo_tokens_per_second(row: Row) -> float:
    """The throughput of that plan."""
    return parse_tokens(row.verdict.seq) / sppo_plan(row).seconds


def memory_verdict(rows: Sequence[Row]) -> str:
    """How many of the counted memory verdicts agree with the paper."""
    counted = [row.verdict for row in rows if row.verdict.counted]
    known = [verdict for verdict in counted if verdict.agrees is not None]
    return f"{sum(bool(each.agrees) for each in known)} of {len(known)} memory verdicts agree."


def ratio_verdict(rows: Sequence[Row]) -> str:
    """Which ratios are near the paper's, as simulated and without Megatron's idle time."""
    ratios = list(compared(rows))
    near = [each for each in ratios if each.is_near(each.ratio)]
    busy = [each for each in ratios if each.is_near(each.without_idle)]
    words = (
        f"Ratios within {NEAR:.0%} of the paper's, of {len(ratios)}: as simulated {_names(near)}; "
        f"without Megatron's idle time {_names(busy)}."
    )
    chance = [each for each in near if each not in busy]
    if chance:
        words += f" Megatron's idle pipeline alone makes {_names(chance)} agree: a coincidence."
    return words


def _names(ratios: Sequence[Ratio]) -> str:
    return " and ".join(each.what for each in ratios) or "none"


@dataclass(frozen=True, kw_only=True)
class Ratio:
    """SPPO over Megatron at a point, beside the paper's number."""

    what: str
    megatron: Row
    sppo: Row
    paper: float

    @property
    def ratio(self) -> float:
        """Megatron's step over SPPO's."""
        return over(self.megatron, self.sppo)

    @property
    def without_idle(self) -> float:
        """The same with Megatron's pipeline always busy."""
        return self.ratio * (1 - self.megatron.idle_share)

    def is_near(self, ratio: float) -> bool:
        """Whether a ratio is within NEAR of the paper's."""
        return abs(ratio / self.paper - 1) <= NEAR

    @property
    def comparison(self) -> Comparison:
        """The row of the page."""
        return Comparison(
            what=f"{self.what}: SPPO over Megatron",
            ours=self.ratio,
            ours_label="simulated",
            paper=self.paper,
            form="{:.2f}x",
            cause=(
                f"Megatron idles {self.megatron.idle_share:.1%}; without idle time "
                f"{self.without_idle:.2f}x"
            ),
        )


def compared(rows: Sequence[Row]) -> Iterator[Ratio]:
    """The ratios that the paper states, where both systems have a step. Raises OSError."""
    statements = reported.numbers("fig10_statements")
    pairs = ratios_of(rows)
    small = [
        pair
        for place, pair in pairs.items()
        if place.startswith("gpt-7b") and pair[0].verdict.paper_outcome == "fits"
    ]
    if small:
        small.sort(key=lambda pair: over(*pair))
        low, high = statements["gpt-7b"]["speedup_over_megatron_same_parallelism"]
        for what, (megatron, sppo), paper in (
            ("gpt-7b, least", small[0], low),
            ("gpt-7b, most", small[-1], high),
        ):
            yield Ratio(what=what, megatron=megatron, sppo=sppo, paper=paper)
    for length, paper in statements["gpt-65b"]["speedup_over_megatron"].items():
        place = f"gpt-65b, {length}"
        if place in pairs:
            megatron, sppo = pairs[place]
            yield Ratio(what=place, megatron=megatron, sppo=sppo, paper=paper)
