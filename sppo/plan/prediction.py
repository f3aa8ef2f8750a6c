"""A plan's predicted times and messages: the outcome of its simulation."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """Times of a step, simulated from a hardware profile, and the messages between its stages.

    Times are those of forward and backward without the optimizer. `reduction_seconds` of the
    makespan are the sums over replicas that follow. `messages` and `message_bytes`: sent by one
    rank of each stage to other stages in a step.
    """

    makespan_seconds: float
    reduction_seconds: float
    bubble_share: float
    messages: tuple[int, ...] = ()
    message_bytes: tuple[int, ...] = ()
