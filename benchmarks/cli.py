"""The command line `sppo-bench`: its verbs and flags. What each verb does is in `verbs`."""

from __future__ import annotations

import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Annotated, Any

import tyro
from tyro.conf import FlagCreatePairsOff, Positional, arg, subcommand

from benchmarks.workloads import DEFAULT

DESCRIPTION = f"""\
The same long-sequence training under SPPO, Megatron-Core and DeepSpeed, measured and compared.

    sppo-bench run {DEFAULT}

Exit codes: 0 every asked row ended in a result (ok, oom, host_oom, infeasible, unavailable);
1 a mismatch, a failure, a time-out, or an infeasible plan; 2 wrong input, told in one line;
130 interrupted, the records so far are kept."""

INTERRUPTED = 130
WRONG_INPUT = 2


@dataclass(frozen=True, kw_only=True)
class List:
    """Name the workloads and the rows.

    Example: sppo-bench list
    """

    json: bool = False
    """For programs."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Show what SPPO's solver decides for a workload; needs no GPU. Exits 1 if nothing fits.

    Example: sppo-bench plan tiny-cpu --device-memory 120MiB
    """

    workload: Annotated[Positional[str], arg(metavar="WORKLOAD")] = DEFAULT
    """A name of `sppo-bench list`."""
    device_memory: Annotated[str | None, arg(metavar="SIZE")] = None
    """Memory of one rank's device: 160MiB, 79.15GiB or none; the workload's own if not given."""
    json: bool = False
    """The whole plan, for programs."""


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
class Table:
    """Print the table of a run again, from its records alone.

    Example: sppo-bench table results/runs/20261124-072759-tiny-cpu
    """

    directory: Annotated[Positional[Path], arg(metavar="DIR")]
    """A folder that `sppo-bench run` has made."""
    json: bool = False
    """For programs."""


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
class Env:
    """Describe this machine as records do: versions, processor, commit.

    Example: sppo-bench env --json
    """

    json: bool = False
    """For programs."""


Verb = (
    Annotated[List, subcommand("list")]
    | Annotated[Plan, subcommand("plan")]
    | Annotated[Run, subcommand("run")]
    | Annotated[Table, subcommand("table")]
    | Annotated[Limit, subcommand("limit")]
    | Annotated[Env, subcommand("env")]
)


def main(arguments: Sequence[str]) -> int:
    """Run one command; returns the exit code. Wrong flags end in SystemExit(2) with a hint."""
    verb: Any = tyro.cli(
        Verb,
        prog="sppo-bench",
        description=DESCRIPTION,
        args=list(arguments),
        config=(FlagCreatePairsOff,),
    )
    from benchmarks import verbs

    before = signal.signal(signal.SIGTERM, _terminate)
    try:
        return verbs.dispatch(verb)
    except verbs.UsageError as error:
        print(f"error: {error}", file=sys.stderr)
        return WRONG_INPUT
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED
    finally:
        signal.signal(signal.SIGTERM, before)


def _terminate(number: int, frame: FrameType | None) -> None:
    """A TERM ends the command as an interrupt does: no launch outlives it."""
    raise KeyboardInterrupt
