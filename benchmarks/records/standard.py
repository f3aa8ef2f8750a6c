"""What the rows of a run are compared with, and how far they may be from it.

In float32 and float64: the reference, within `TOLERANCE`. In bfloat16 a loss begins near the
logarithm of the vocabulary, whatever attention does, so a fixed share of it would pass wrong work.
There the standard is the reference in float32, and a row may have twice the error of plain torch
in bfloat16.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from benchmarks.records.equal_work import QUANTITIES, TOLERANCE
from benchmarks.records.record import Record, StepRecord

FACTOR = 2.0
"""A row's largest error over that of plain torch in bfloat16."""

LEAST_ERROR = 1e-4
"""Plain torch is counted with at least this relative error: its own may be small by chance."""


@dataclass(frozen=True, kw_only=True)
class Standard:
    """The steps of a reference (None without one) and the allowed relative errors by quantity.

    name: of the reference, in words. measured: whether the errors are those of plain torch.
    """

    steps: Sequence[StepRecord] | None
    allowed: Mapping[str, float]
    name: str = "the reference"
    measured: bool = False

    @property
    def words(self) -> str:
        """The allowed errors, for people."""
        loss, norm = (f"{self.allowed[name]:.2g}" for name in QUANTITIES)
        if not self.measured:
            return f"loss and gradient norm within {self.allowed['loss']:g}"
        return (
            f"loss within {loss} and gradient norm within {norm} of float32, twice the error of "
            "plain torch in bfloat16"
        )


def standard(records: Sequence[Record]) -> Standard:
    """The standard of a run, from its launches; at least one."""
    references = [each for each in records if each.is_reference and each.status == "ok"]
    exact = next((each for each in references if _is_exact(each)), None)
    plain = next((each for each in references if not _is_exact(each)), None)
    errors = _errors(plain.steps, exact.steps) if exact and plain else None
    if exact is not None and errors is not None:
        return Standard(
            steps=exact.steps,
            allowed={name: FACTOR * max(LEAST_ERROR, errors[name]) for name in QUANTITIES},
            name="the reference in float32",
            measured=True,
        )
    known = plain or exact
    tolerance = TOLERANCE[records[0].workload.dtype]
    return Standard(
        steps=known.steps if known else None, allowed=dict.fromkeys(QUANTITIES, tolerance)
    )


def _is_exact(record: Record) -> bool:
    """Whether a reference ran in another dtype than its workload."""
    return bool(record.settings.get("dtype"))


def _errors(steps: Sequence[StepRecord], exact: Sequence[StepRecord]) -> dict[str, float] | None:
    """The largest relative errors over all steps; None where a value is missing."""
    errors = dict.fromkeys(QUANTITIES, 0.0)
    for step, exact_step in zip(steps, exact, strict=False):
        for name in QUANTITIES:
            value, expected = getattr(step, name), getattr(exact_step, name)
            if value is None or not expected:
                return None
            errors[name] = max(errors[name], abs(value - expected) / abs(expected))
    return errors
