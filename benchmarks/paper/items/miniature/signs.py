"""Signs and orders of measured numbers, to be compared with those of another panel."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal

from benchmarks.paper.miniature.result import MeasuredPlace, MeasuredRatio, MeasuredRow
from benchmarks.paper.offload_ablation_report import TIE

Sign = Literal["faster", "slower", "no clear difference", "not claimed", "does not fit"]

REFUSED = ("oom", "host_oom", "infeasible")
"""Statuses of a row that does not fit."""

Order = Literal["longer", "shorter", "equal", "mixed"]


def row_of(place: MeasuredPlace, name: str) -> MeasuredRow | None:
    """The row of that name; None where the place has none."""
    return next((row for row in place.rows if row.summary.row == name), None)


def ratio_of(place: MeasuredPlace, row: str, over: str) -> MeasuredRatio | None:
    """The measured ratio of two rows, in the order in which the place has them; None without."""
    pairs = ((ratio.row, ratio.over, ratio) for ratio in place.ratios)
    return next((ratio for own, other, ratio in pairs if (own, other) == (row, over)), None)


def sign_of(place: MeasuredPlace, row: str, over: str) -> Sign:
    """Whether the row is faster than `over`: by the interval of their ratio, which excludes 1.

    Without a ratio one of them did not fit, or nothing is claimed: a crowded machine, a failure.
    """
    ratio = ratio_of(place, row, over)
    if ratio is None:
        rows = [row_of(place, name) for name in (row, over)]
        refused = any(each is not None and each.summary.status in REFUSED for each in rows)
        return "does not fit" if refused else "not claimed"
    if ratio.ratio is None or ratio.low is None or ratio.high is None:
        return "not claimed"
    if ratio.low > 1:
        return "faster"
    return "slower" if ratio.high < 1 else "no clear difference"


def sign_of_value(ratio: float | None) -> Sign:
    """The sign of a simulated ratio; a difference of up to TIE is none."""
    if ratio is None:
        return "does not fit"
    if abs(ratio - 1) <= TIE:
        return "no clear difference"
    return "faster" if ratio > 1 else "slower"


def common_sign(ratios: Sequence[float | None]) -> Sign | None:
    """The sign that all simulated ratios have; None where they differ, or without any."""
    signs = {sign_of_value(ratio) for ratio in ratios}
    return signs.pop() if len(signs) == 1 else None


def order_of(pairs: Iterable[tuple[float, float]]) -> Order:
    """Which of two quantities is larger where they differ, such as fits (1) and not (0)."""
    differences = [first - second for first, second in pairs]
    longer, shorter = (any(sign * value > 0 for value in differences) for sign in (1, -1))
    if longer and shorter:
        return "mixed"
    if longer:
        return "longer"
    return "shorter" if shorter else "equal"


def agreement_words(pairs: Sequence[tuple[str, str]], what: str) -> str:
    """ "3 of 4 signs agree": of pairs of a measured word and that of the other panel."""
    equal = sum(measured == other for measured, other in pairs)
    return f"{equal} of {len(pairs)} {what} agree"
