"""The targets by name. No torch: a target's module is imported when the target is prepared."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from pkgutil import resolve_name

from benchmarks.regression.targets.target import Job, Repetition, Target


def _target(name: str, place: str, description: str) -> Target:
    """place: "module:function" in this package; the function is a context manager."""

    def prepare() -> AbstractContextManager[Repetition]:
        prepared: AbstractContextManager[Repetition] = resolve_name(f"{__package__}.{place}")()
        return prepared

    return Target(name=name, description=description, prepare=prepare)


_TARGETS = (
    _target(
        "engine-step",
        "training:engine_step",
        "forward and backward of one rank's engine: 512 tokens in 4 subsequences, all offloaded",
    ),
    _target(
        "attention",
        "training:attention",
        "forward and backward of 256 queries against 4,096 earlier positions, 4 heads of 64",
    ),
    _target(
        "stage-forward",
        "training:stage_forward",
        "forward of 256 tokens through 2 blocks of width 256, after 1,024 earlier tokens",
    ),
    _target(
        "stage-backward",
        "training:stage_backward",
        "backward of the same 256 tokens, with the forward that it needs",
    ),
    _target("planning", "planning:plan", "the solver's search for tiny-cpu, with empty caches"),
    _target(
        "simulating",
        "planning:simulation",
        "schedule, check and simulation of 32 subsequences on 4 stages of 2 chunks",
    ),
    _target(
        "emulating",
        "emulating:role",
        "a role of SPPO for gpt-tiny at 4K tokens on 4 A100, emulated and counted",
    ),
    _target(
        "record-writing",
        "records:writing",
        "a record of 8,000 steps, encoded, written and flushed to the disk",
    ),
)

TARGETS: Mapping[str, Target] = {target.name: target for target in _TARGETS}
"""By name: pieces of the suite, 20 ms to 1 s a repetition on one core."""

DEFAULT = ("engine-step", "planning", "emulating")
"""Compared if no target is named: few, so that each has enough of the time."""


def _job(system: str, row: str) -> Job:
    return Job(
        name=f"job-{system}",
        description=f"a measured step of tiny-cpu under {row}: a real launch of two ranks",
        arguments=(
            *("run", "tiny-cpu", "--systems", row, "--launches", "1", "--measured-steps", "5"),
            *("--budget", "0", "--no-wandb", "--json"),
        ),
    )


JOBS: Mapping[str, Job] = {
    job.name: job
    for job in (
        _job("sppo", "sppo"),
        _job("megatron", "megatron-tuned"),
        _job("deepspeed", "deepspeed"),
        _job("native", "native"),
    )
}
"""By name: the main job of each system."""
