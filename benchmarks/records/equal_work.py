"""The equal-work gate: every row must compute the losses and norms of the reference.

The reference runs fewer steps. In the remaining steps rows are compared with each other: a row
that disagrees with more than half of its peers did different work.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from benchmarks.records.record import StepRecord
from sppo.config.sizes import Dtype

TOLERANCE: dict[Dtype, float] = {"float64": 1e-9, "float32": 1e-5, "bfloat16": 2e-2}
"""Largest relative difference of a loss or gradient norm. bfloat16 keeps 8 bits: 2 per cent,
between rows, and where no reference in float32 was possible (`standard.py`)."""

QUANTITIES = ("loss", "grad_norm")


@dataclass(frozen=True, kw_only=True)
class Difference:
    """The first step at which two rows differ."""

    step: int
    quantity: str
    value: float | int | None
    expected: float | int | None
    against: str

    def __str__(self) -> str:
        return (
            f"step {self.step}: {self.quantity} {_number(self.value)}, "
            f"{self.against} has {_number(self.expected)}"
        )


def _number(value: float | int | None) -> str:
    return "no finite value" if value is None else f"{value:.9g}"


def close(value: float | None, expected: float | None, tolerance: float) -> bool:
    """Equal within a relative tolerance. A value that is not finite equals nothing."""
    if value is None or expected is None:
        return False
    if not (math.isfinite(value) and math.isfinite(expected)):
        return False
    return abs(value - expected) <= tolerance * abs(expected)


def first_difference(
    steps: Sequence[StepRecord],
    expected: Sequence[StepRecord],
    *,
    tolerance: float | Mapping[str, float],
    against: str,
    prefix: bool = False,
) -> Difference | None:
    """The first step at which two rows differ in tokens, loss, norm or number of steps.

    tolerance: relative, of loss and norm, or of each by its name.
    With `prefix`, `expected` may have fewer steps, but at least one.
    """
    if isinstance(tolerance, float):
        tolerance = dict.fromkeys(QUANTITIES, tolerance)
    allowed = {"tokens": 0.0, **tolerance}
    for index, (step, expected_step) in enumerate(zip(steps, expected, strict=False)):
        for quantity in ("tokens", *QUANTITIES):
            value = getattr(step, quantity)
            wanted = getattr(expected_step, quantity)
            if not close(value, wanted, allowed[quantity]):
                return Difference(
                    step=index, quantity=quantity, value=value, expected=wanted, against=against
                )
    if len(steps) == len(expected) or (prefix and 0 < len(expected) < len(steps)):
        return None
    return Difference(
        step=min(len(steps), len(expected)),
        quantity="number of steps",
        value=len(steps),
        expected=len(expected),
        against=against,
    )


def equal_work(
    rows: Mapping[str, Sequence[StepRecord]],
    reference: Sequence[StepRecord] | None,
    *,
    tolerance: float,
    reference_tolerance: Mapping[str, float] | None = None,
    reference_name: str = "the reference",
) -> dict[str, Difference]:
    """The launches that did different work, by name, each with its first difference.

    rows: the steps of every launch with status ok. reference: None where no single device can
    hold it; then only the majority rule remains. A reference without steps differs from all rows.
    reference_tolerance: of the comparison with the reference, by quantity, where it is another.
    """
    different: dict[str, Difference] = {}
    if reference is not None:
        for name, steps in rows.items():
            difference = first_difference(
                steps,
                reference,
                tolerance=reference_tolerance or tolerance,
                against=reference_name,
                prefix=True,
            )
            if difference is not None:
                different[name] = difference
    accepted = {name: steps for name, steps in rows.items() if name not in different}
    for name, steps in accepted.items():
        differences = [
            difference
            for peer, expected in accepted.items()
            if peer != name
            and (difference := first_difference(steps, expected, tolerance=tolerance, against=peer))
        ]
        if 2 * len(differences) > len(accepted) - 1:
            different[name] = min(differences, key=lambda difference: difference.step)
    return different
