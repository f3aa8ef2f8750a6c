"""Equal work, or no comparison: every row must compute the losses and norms of the reference.

Where the reference has no step (it runs fewer), rows are compared with each other: the row that
disagrees with more than half of the others is the one that did other work.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from benchmarks.records.record import Step
from sppo.config.sizes import Dtype

TOLERANCE: dict[Dtype, float] = {"float64": 1e-9, "float32": 1e-5, "bfloat16": 2e-2}
"""Largest relative difference of a loss or gradient norm. bfloat16 keeps 8 bits: 2 per cent."""


@dataclass(frozen=True, kw_only=True)
class Difference:
    """The first place where a row left the others."""

    step: int
    quantity: str
    value: float | int | None
    expected: float | int | None
    against: str

    def __str__(self) -> str:
        return (
            f"step {self.step}: {self.quantity} {_say(self.value)}, "
            f"{self.against} has {_say(self.expected)}"
        )


def _say(value: float | int | None) -> str:
    return "no finite value" if value is None else f"{value:.9g}"


def close(value: float | None, expected: float | None, tolerance: float) -> bool:
    """Equal within a relative tolerance; what is not finite equals nothing, not even itself."""
    if value is None or expected is None:
        return False
    if not (math.isfinite(value) and math.isfinite(expected)):
        return False
    return abs(value - expected) <= tolerance * abs(expected)


def first_difference(
    steps: Sequence[Step],
    expected: Sequence[Step],
    *,
    tolerance: float,
    against: str,
    prefix: bool = False,
) -> Difference | None:
    """The first step at which two rows differ in tokens, loss or norm, or in their number.

    With `prefix`, `expected` may be the shorter: only its own steps are asked for.
    """
    for index, (ours, theirs) in enumerate(zip(steps, expected, strict=False)):
        for quantity, allowed in (("tokens", 0.0), ("loss", tolerance), ("grad_norm", tolerance)):
            value = getattr(ours, quantity)
            wanted = getattr(theirs, quantity)
            if not close(value, wanted, allowed):
                return Difference(
                    step=index, quantity=quantity, value=value, expected=wanted, against=against
                )
    if len(steps) == len(expected) or (prefix and len(steps) > len(expected)):
        return None
    return Difference(
        step=min(len(steps), len(expected)),
        quantity="number of steps",
        value=len(steps),
        expected=len(expected),
        against=against,
    )


def equal_work(
    rows: Mapping[str, Sequence[Step]],
    reference: Sequence[Step] | None,
    *,
    tolerance: float,
) -> dict[str, Difference]:
    """The launches that did other work, by name, each with its first difference.

    rows: the steps of every launch that ended well. reference: None where no single device can
    hold it; then only the majority rule is left. A reference without steps agrees with nobody.
    """
    different: dict[str, Difference] = {}
    if reference is not None:
        for name, steps in rows.items():
            found = first_difference(
                steps, reference, tolerance=tolerance, against="the reference", prefix=True
            )
            if not reference:
                found = Difference(
                    step=0,
                    quantity="number of steps",
                    value=len(steps),
                    expected=0,
                    against="the reference",
                )
            if found is not None:
                different[name] = found
    accepted = {name: steps for name, steps in rows.items() if name not in different}
    for name, steps in accepted.items():
        others = [(other, theirs) for other, theirs in accepted.items() if other != name]
        found_by = [
            found
            for other, theirs in others
            if (found := first_difference(steps, theirs, tolerance=tolerance, against=other))
        ]
        if 2 * len(found_by) > len(others):
            different[name] = min(found_by, key=lambda found: found.step)
    return different
