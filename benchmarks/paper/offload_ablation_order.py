"""Whether a simulated ablation has the order of the paper's variants."""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.paper.offload_ablation import (
    ADAPTIVE,
    FULL,
    MSP,
    SPACIOUS_MSP,
    AblationPoint,
    ratio,
)

TIE = 0.005
"""Two variants count as equal below this share of a step: a cost model is no finer."""

AS_IN_THE_PAPER = "faster, as in the paper"
EQUAL = f"equal within {TIE:.1%}, not as in the paper"
OPPOSITE = "slower, not as in the paper"
INFEASIBLE = "infeasible, so no order"


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """One step of the ablation, as speeds (above 1: `variant` is faster than `than`).

    what_if_speed: with device memory to spare, if the variant does not fit.
    """

    variant: str
    than: str
    simulated_speed: float | None
    what_if_speed: float | None
    paper_speed: float | None
    verdict: str

    def __str__(self) -> str:
        """ "adaptive offload over full offload: simulated 1.003x, paper 1.35x: ..." """
        speeds = (
            ("simulated {:.3f}x", self.simulated_speed),
            ("simulated with device memory to spare {:.3f}x", self.what_if_speed),
            ("paper {:.2f}x", self.paper_speed),
        )
        known = ", ".join(form.format(speed) for form, speed in speeds if speed is not None)
        head = f"{self.variant} over {self.than}"
        return ": ".join(part for part in (head, known, self.verdict) if part)


def comparisons(point: AblationPoint) -> list[Comparison]:
    """Adaptive over full offload, and MSP over adaptive. The paper finds both faster (fig. 11)."""
    seconds = {row.variant: row.step_seconds for row in point.rows}
    paper = {row.variant: row.paper_speed_over_megatron for row in point.rows}
    results = []
    for faster, slower, what_if in ((ADAPTIVE, FULL, None), (MSP, ADAPTIVE, SPACIOUS_MSP)):
        speed = ratio(seconds[slower.name], seconds[faster.name])
        what_if_seconds = None if what_if is None else seconds.get(what_if.name)
        results.append(
            Comparison(
                variant=faster.name,
                than=slower.name,
                simulated_speed=speed,
                what_if_speed=ratio(seconds[slower.name], what_if_seconds),
                paper_speed=ratio(paper[faster.name], paper[slower.name]),
                verdict=_verdict(speed),
            )
        )
    return results


def _verdict(speed: float | None) -> str:
    if speed is None:
        return INFEASIBLE
    if abs(speed - 1) < TIE:
        return EQUAL
    return AS_IN_THE_PAPER if speed > 1 else OPPOSITE
