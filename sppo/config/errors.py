"""The engine's own words for the ways a step cannot be done."""

from __future__ import annotations

from sppo.config.sizes import format_bytes


class Infeasible(Exception):
    """No plan fits the stated memory; the message says which resource is short and by how much."""


class HostTierFull(RuntimeError):
    """The host tier could not hold what the plan sends there (status `host_oom`)."""


class NotBuilt(Exception):
    """Asked for a part of SPPO that this version does not have; the message names it."""


class Short(Exception):
    """One layout does not fit, by `bytes` of a resource; the solver then tries the next."""

    def __init__(self, size_bytes: int, what: str) -> None:
        super().__init__(f"{format_bytes(size_bytes)} of {what}")
        self.bytes = size_bytes
