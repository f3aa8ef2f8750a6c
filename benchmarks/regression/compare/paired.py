"""Ratios within pairs: how much longer HEAD takes than the BASE process beside it.

A disturbance of some seconds slows both sides of a pair. So ratios within pairs stay where least
times move: on a core of two speeds, or where a single lucky process is the fastest of all.

Where HEAD is BASE's code, a pair's logarithm of the ratio is as often above as below 0, by as much.
Wilcoxon's signed-rank test needs no more ("Individual comparisons by ranking methods", Biometrics
Bulletin 1945). The typical ratio is its estimate of location (Hodges and Lehmann, "Estimates of
location based on rank tests", Annals of Mathematical Statistics 1963).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Least seconds of two processes that ran one after the other. An A/A pair has BASE twice."""

    base_seconds: float
    head_seconds: float


def typical_ratio(pairs: Sequence[Pair]) -> float | None:
    """HEAD over BASE within a pair: the median over the means of every two pairs' logarithms.

    None without pairs.
    """
    if not pairs:
        return None
    logarithms = _logarithms(pairs)
    first, second = np.triu_indices(len(pairs))
    return float(np.exp(np.median((logarithms[first] + logarithms[second]) / 2)))


def chance_of_equal(pairs: Sequence[Pair], margin: float) -> float:
    """How likely are pairs as slow as these where HEAD takes (1 + margin) times as long as BASE?

    The p-value of the one-sided signed-rank test. Exact for up to 50 pairs without ties.
    """
    from scipy.stats import wilcoxon

    shifted = _logarithms(pairs) - np.log1p(margin)
    if not shifted.any():
        return 1.0
    return float(wilcoxon(shifted, alternative="greater").pvalue)


def _logarithms(pairs: Sequence[Pair]) -> NDArray[np.float64]:
    return np.log([pair.head_seconds / pair.base_seconds for pair in pairs])
