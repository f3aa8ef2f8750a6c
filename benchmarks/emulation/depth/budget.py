"""The seconds that a search may take."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field

ESTIMATES_SHARE = 0.6
"""The share of a search's seconds after which no estimate begins: the answer is emulated whole."""


@dataclass(frozen=True, kw_only=True)
class SearchBudget:
    """`seconds` from now on; infinite where the user sets none."""

    seconds: float = math.inf
    begun: float = field(default_factory=time.monotonic)

    @property
    def left_seconds(self) -> float:
        """Seconds until the search ends, at least 0."""
        return max(0.0, self.begun + self.seconds - time.monotonic())

    @property
    def is_over_for_estimates(self) -> bool:
        """Whether only the answer may still be emulated."""
        return self.left_seconds <= (1 - ESTIMATES_SHARE) * self.seconds < math.inf
