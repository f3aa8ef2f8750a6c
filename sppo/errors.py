"""The engine's own words for the ways a step cannot be done."""

from __future__ import annotations


class Infeasible(Exception):
    """No plan fits the stated memory; the message says which resource is short and by how much."""


class HostTierFull(RuntimeError):
    """The host tier could not hold what the plan sends there (status `host_oom`)."""


class NotBuilt(Exception):
    """Asked for a part of SPPO that this version does not have; the message names it."""
