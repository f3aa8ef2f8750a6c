"""The flags of `run`, `limit`, `longest` and `profile`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from benchmarks.workloads import DEFAULT


@dataclass(frozen=True, kw_only=True)
class Run:
    """Launch every row of a workload, compare them, and write records, table and figure.

    Example: sppo-bench run tiny-cpu --systems megatron,sppo --device-memory 160MiB
    """

    workload: Annotated[Positional[str], arg(metavar="WORKLOAD")] = DEFAULT
    """A name of `sppo-bench list`."""
    systems: Annotated[tuple[str, ...], arg(metavar="NAMES")] = ()
    """Rows, by comma or space: deepspeed, megatron (both its rows), megatron-same-layout,
    megatron-tuned, sppo; all four if not given."""
    device_memory: Annotated[str | None, arg(metavar="SIZE")] = None
    """Memory of one rank's device: 160MiB, 79.15GiB or none; the workload's own if not given."""
    text: Annotated[str | None, arg(metavar="PATH")] = None
    """File or folder to train on (text, .npy, or raw FILE:dtype); else Python's own sources."""
    launches: int = 2
    """Launches of each row, interleaved with the others'."""
    measured_steps: int = 5
    """Timed steps of a launch."""
    warmup_steps: int = 1
    """Untimed steps after the throw-away and the accounted one."""
    time_limit: float = 120.0
    """Seconds of one launch; after that it is stopped and recorded as timeout."""
    tune: bool = False
    """Measure each library's whole grid (at most 3 timed steps a point), its fastest points twice
    more, and save it to results/published/tuning/, where plain runs find the winner."""
    dry_run: bool = False
    """Print the exact torchrun lines; write nothing."""
    output: Annotated[Path | None, arg(metavar="DIR")] = None
    """Folder in which the run's folder is made; results/runs/ if not given."""
    json: bool = False
    """The table as JSON on standard output."""
    no_wandb: bool = False
    """Write no wandb runs (else one per launch, offline unless WANDB_MODE says otherwise)."""


@dataclass(frozen=True, kw_only=True)
class Limit:
    """Find the device memory of a workload by its rule, with enforced launches, and save it.

    The rule: the least MiB at which Megatron-Core in SPPO's layout with full recompute still runs.

    Example: sppo-bench limit tiny-cpu
    """

    workload: Annotated[Positional[str], arg(metavar="WORKLOAD")] = DEFAULT
    """A name of `sppo-bench list`."""
    output: Annotated[Path | None, arg(metavar="DIR")] = None
    """Folder in which the run's folder is made; results/runs/ if not given."""
    json: bool = False
    """For programs."""


@dataclass(frozen=True, kw_only=True)
class Profile:
    """Measure this machine's rates and links as a hardware profile, which the planner then knows.

    Example: sppo-bench profile my-machine --ranks 2
    """

    name: Annotated[Positional[str], arg(metavar="NAME")]
    """What --hardware will call it: small letters, digits and dashes."""
    ranks: int = 2
    """Processes that measure at once; an even number, as messages go to a neighbour."""
    output: Annotated[Path | None, arg(metavar="FILE")] = None
    """File to write, also over an old one; a new file among the profiles if not given."""
    json: bool = False
    """The profile as JSON on standard output."""


@dataclass(frozen=True, kw_only=True)
class Longest:
    """Find the longest sequence each row can train under the device limit, and save it.

    Searched with enforced launches up to their accounted step. SPPO plans each length; a tuned row
    is the best of its library's whole grid, leanest points first.

    Example: sppo-bench longest tiny-cpu --systems sppo,megatron-same-layout
    """

    workload: Annotated[Positional[str], arg(metavar="WORKLOAD")] = DEFAULT
    """A name of `sppo-bench list`; its own length is where the search starts."""
    systems: Annotated[tuple[str, ...], arg(metavar="NAMES")] = ()
    """Rows, by comma or space, as for `run`; all four if not given."""
    device_memory: Annotated[str | None, arg(metavar="SIZE")] = None
    """Memory of one rank's device: 160MiB or 79.15GiB; the workload's own if not given."""
    at_most: Annotated[str | None, arg(metavar="TOKENS")] = None
    """The longest that is asked for, such as 64K; else 8 times the workload's own length."""
    time_limit: float = 900.0
    """Seconds of one launch; a length that takes longer counts as one that does not fit."""
    output: Annotated[Path | None, arg(metavar="DIR")] = None
    """Folder in which the run's folder is made; results/runs/ if not given."""
    json: bool = False
    """The rows as JSON on standard output."""
