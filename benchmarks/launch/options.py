"""The launches of each row: how many, with which steps, for how long at most."""

from __future__ import annotations

from dataclasses import dataclass

REFERENCE_STEPS = 4
"""Optimizer steps of the reference: the throw-away step and three full ones."""

LAUNCHES = {"cpu": 2, "cuda": 3}
"""Launches of a row by device, where the user gives none. A ratio needs three. On CPU ranks the
third is within the budget, so that a slow machine ends in time too."""

STEPS = 5
"""Timed steps of a launch, where the user gives none."""

STEPS_IN_TURN = 10
"""Of a launch whose rows take turns: a further step costs less than a further launch."""


STEPS_OF_A_POINT = 3
"""Timed steps, at most, of a launch that chooses among the points of a grid."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """The launches of each row. The time limit is that of one launch; None: see `time_limits`.

    Rows whose times are not settled are launched further within the budget of the whole run.
    Without warm-up and measured steps a launch ends after its accounted step and has no times.
    in_turns: the rows of a round are alive at once and take their measured steps in turn, so that
    a change of the machine's speed meets them all (docs/timing.md).
    """

    launches: int = 2
    warmup_steps: int = 1
    measured_steps: int = STEPS
    time_limit_seconds: float | None = None
    threads_per_rank: int = 1
    budget_seconds: float = 0.0
    in_turns: bool = False

    def __post_init__(self) -> None:
        for name in ("launches", "measured_steps", "warmup_steps", "budget_seconds"):
            least = int(name == "launches")
            if not getattr(self, name) >= least:
                raise ValueError(f"{name} must be at least {least}")
        limit = self.time_limit_seconds
        if limit is not None and not 0 < limit < float("inf"):
            raise ValueError(
                f"time limit {limit:g}: give positive seconds, or leave it out for the derived one"
            )

    @property
    def steps(self) -> int:
        """All steps of a launch: throw-away, accounted, warm-up, measured."""
        return 2 + self.warmup_steps + self.measured_steps
