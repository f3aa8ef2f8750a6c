"""Whether a simulated ablation has the signs and the order of the paper's."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from benchmarks.paper.offload_ablation import ADAPTIVE, FULL, MSP, SPACIOUS_MSP, Point, Row

TIE = 0.005
"""Share of a step below which two variants count as equal: finer than a cost model is good for."""

AS_IN_THE_PAPER = "faster, as in the paper"
EQUAL = f"equal within {TIE:.1%}, not as in the paper"
OPPOSITE = "slower, not as in the paper"
INFEASIBLE = "infeasible, so no order"


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """One step of the ablation, as speeds (above 1: `variant` is faster than `than`).

    what_if_speed: with device memory to spare, where the variant does not fit.
    """

    variant: str
    than: str
    simulated_speed: float | None
    what_if_speed: float | None
    paper_speed: float | None
    verdict: str


def comparisons(point: Point) -> list[Comparison]:
    """Adaptive over full offload, and MSP over adaptive; the paper finds both faster."""
    return list(_comparisons({row.variant: row for row in point.rows}))


def _comparisons(rows: dict[str, Row]) -> Iterator[Comparison]:
    for faster, slower in ((ADAPTIVE, FULL), (MSP, ADAPTIVE)):
        mine, other = rows[faster.name], rows[slower.name]
        speed = _speed(mine, other)
        what_if = None
        if faster is MSP and SPACIOUS_MSP.name in rows:
            what_if = _speed(rows[SPACIOUS_MSP.name], other)
        yield Comparison(
            variant=faster.name,
            than=slower.name,
            simulated_speed=speed,
            what_if_speed=what_if,
            paper_speed=_paper_speed(mine, other),
            verdict=_verdict(speed),
        )


def _speed(mine: Row, other: Row) -> float | None:
    if mine.step_seconds is None or other.step_seconds is None:
        return None
    return other.step_seconds / mine.step_seconds


def _paper_speed(mine: Row, other: Row) -> float | None:
    if mine.paper_speed_over_megatron is None or other.paper_speed_over_megatron is None:
        return None
    return mine.paper_speed_over_megatron / other.paper_speed_over_megatron


def _verdict(speed: float | None) -> str:
    if speed is None:
        return INFEASIBLE
    if abs(speed - 1) < TIE:
        return EQUAL
    return AS_IN_THE_PAPER if speed > 1 else OPPOSITE


def words(comparison: Comparison) -> str:
    """ "adaptive offload over full offload: simulated 1.003x, paper 1.35x: ..." """
    found = []
    if comparison.simulated_speed is not None:
        found.append(f"simulated {comparison.simulated_speed:.3f}x")
    if comparison.what_if_speed is not None:
        found.append(f"simulated with device memory to spare {comparison.what_if_speed:.3f}x")
    if comparison.paper_speed is not None:
        found.append(f"paper {comparison.paper_speed:.2f}x")
    numbers = ", ".join(found)
    head = f"{comparison.variant} over {comparison.than}"
    return f"{head}: {numbers}: {comparison.verdict}" if found else f"{head}: {comparison.verdict}"
