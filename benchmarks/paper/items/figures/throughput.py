"""Throughput of the systems at the 15 points, from a committed emulation (fig. 10)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from benchmarks.paper import reported
from benchmarks.paper.items import published
from benchmarks.paper.items.profile import kernel_limit_share
from benchmarks.paper.items.sppo_steps import SimulatedStep, own_plan
from benchmarks.paper.verdicts import PaperPoints, Verdict
from sppo.config.sizes import parse_tokens

SAME, SPPO = "Megatron, the paper's SPPO degrees", "SPPO"
"""Names of rows."""


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
