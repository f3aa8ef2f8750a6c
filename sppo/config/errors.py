"""Errors of plans and steps that are not possible."""

from __future__ import annotations

from sppo.config.sizes import format_bytes


class Infeasible(Exception):
    """No plan fits the stated memory; the message says which resource is short and by how much."""


class HostTierFull(RuntimeError):
    """The host tier could not hold the offloaded saved tensors (status `host_oom`)."""


class NotSupported(Exception):
    """This version of SPPO lacks the feature; the message names it."""


HOST_MEMORY = "host memory"
"""A resource of `LayoutDoesNotFit`."""


class LayoutDoesNotFit(Exception):
    """One layout does not fit, by `bytes` of a resource; the solver then tries the next."""

    def __init__(self, size_bytes: int, what: str) -> None:
        super().__init__(f"{format_bytes(size_bytes)} of {what}")
        self.bytes = size_bytes
        self.of_host = what == HOST_MEMORY
