"""The flags of `sweep`, `ablation` and `paper`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from benchmarks.commands.flags import Degrees, Described, Measuring
from benchmarks.workloads import DEFAULT


@dataclass(frozen=True, kw_only=True)
class Sweep(Measuring):
    """Measure the best row of each system at several device limits, or sequences per step.

    Example: sppo-bench sweep tiny-cpu --device-memory 100MiB,136MiB,200MiB,none

    Example: sppo-bench sweep tiny-cpu --sequences-per-step 1,2,4 --systems sppo,megatron
    """

    workload: Annotated[Positional[str], arg(metavar="WORKLOAD")] = DEFAULT
    """A name of `sppo-bench list`."""
    device_memory: Annotated[str | None, arg(metavar="SIZES")] = None
    """Limits of one rank's device, by comma: 100MiB,136MiB,none. With --sequences-per-step one
    limit for all of them."""
    sequences_per_step: Annotated[str | None, arg(metavar="COUNTS")] = None
    """Numbers of sequences of an optimizer step, by comma: 1,2,4."""
    systems: Annotated[tuple[str, ...], arg(metavar="NAMES")] = ()
    """Systems, by comma or space: deepspeed, megatron, sppo; all three if not given."""
    points: Annotated[int, arg(metavar="COUNT")] = 4
    """Settings of a library that are measured where its grid is not (then the fastest counts)."""


@dataclass(frozen=True, kw_only=True)
class Ablation(Measuring, Degrees, Described):
    """Measure SPPO under each of its policies, all in the layout of auto's plan.

    With --simulate: the paper's ablation (fig. 11), simulated, launching nothing. The layout flags
    (--sp, --pp, --dp, --n, --virtual-stages), the model flags and the links go with it.

    Example: sppo-bench ablation tiny-cpu --policies auto,paper,full-recompute

    Example: sppo-bench ablation --simulate
    """

    workload: Annotated[Positional[str | None], arg(metavar="WORKLOAD")] = None
    """A name of `sppo-bench list`; tiny-cpu if not given. With --simulate also by --model, --seq,
    --gpus and --hardware; the paper's two points if neither is given."""
    policies: Annotated[tuple[str, ...], arg(metavar="NAMES")] = ()
    """Policies, by comma or space: auto, paper, full-offload, no-offload, lean, full-recompute; all
    if not given."""
    simulate: bool = False
    """Full offload, adaptive offload, + MSP in one layout, simulated; needs no GPU. The layout is
    the paper's where it states one, with one part a stage."""
    host_link: Annotated[float | None, arg(metavar="GB/S")] = None
    """With --simulate: GB/s between a device and its host, each way; the profile's if not given."""
    node_link: Annotated[float | None, arg(metavar="GB/S")] = None
    """With --simulate: GB/s of one rank to another node; the profile's if not given."""


@dataclass(frozen=True, kw_only=True)
class Paper:
    """Emulate the paper's memory boundaries (fig. 10 and 12), each system's own code at full size.

    Verdicts beside the paper's, under one stated reading of its layouts. What the same code has
    emulated before is not run again (results/cache/). About an hour and a half on two cores.

    Example: sppo-bench paper --models gpt-7b --systems megatron,deepspeed --figures 10
    """

    figures: Annotated[tuple[str, ...], arg(metavar="NUMBERS")] = ("10", "12")
    """10 (the 15 points) and 12 (the longest sequences), by comma or space."""
    models: Annotated[tuple[str, ...], arg(metavar="NAMES")] = ()
    """Of fig. 10: gpt-7b, gpt-13b, gpt-65b, by comma or space; all if not given."""
    systems: Annotated[tuple[str, ...], arg(metavar="NAMES")] = ()
    """deepspeed, megatron, sppo, by comma or space; all if not given."""
    sequences_per_step: Annotated[int, arg(metavar="COUNT")] = 4
    """Sequences of an optimizer step, at every point and for every system."""
    time_limit: float = 1800.0
    """Seconds of one rank."""
    again: bool = False
    """Run every role, even if the same code has emulated the same before."""
    publish: bool = False
    """Copy table, figure and JSON to results/published/emulation/."""
    output: Annotated[Path | None, arg(metavar="DIR")] = None
    """Folder in which the run's folder is made; results/runs/ if not given."""
    json: bool = False
    """The results as JSON on standard output."""
