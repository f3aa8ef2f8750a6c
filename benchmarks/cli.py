"""The command line `sppo-bench`. Commands are imported when asked for."""

from __future__ import annotations

import signal
import sys
from collections.abc import Sequence
from types import FrameType
from typing import Annotated, Any

import tyro
from tyro.conf import FlagCreatePairsOff, subcommand

from benchmarks.commands.measuring.limit import Limit
from benchmarks.commands.measuring.longest import Longest
from benchmarks.commands.measuring.profile import Profile
from benchmarks.commands.measuring.run import Run
from benchmarks.commands.planning.emulate import Emulate
from benchmarks.commands.planning.plan import Plan
from benchmarks.commands.planning.simulate import Simulate
from benchmarks.commands.reports.env import Env
from benchmarks.commands.reports.list import List
from benchmarks.commands.reports.table import Table
from benchmarks.commands.reports.timeline import Timeline
from benchmarks.commands.studies.ablation import Ablation
from benchmarks.commands.studies.paper import Paper
from benchmarks.commands.studies.sweep import Sweep
from benchmarks.workloads import DEFAULT

DESCRIPTION = f"""\
The same long-sequence training under SPPO, Megatron-Core and DeepSpeed, measured and compared.

    sppo-bench run {DEFAULT}

Exit codes: 0 every asked row ended in a result (ok, oom, host_oom, infeasible, unavailable);
1 a mismatch, a failure, a time-out, or an infeasible plan; 2 wrong input, told in one line;
130 interrupted, the records so far are kept."""

INTERRUPTED = 130
WRONG_INPUT = 2

Verb = (
    Annotated[List, subcommand("list")]
    | Annotated[Plan, subcommand("plan")]
    | Annotated[Simulate, subcommand("simulate")]
    | Annotated[Timeline, subcommand("timeline")]
    | Annotated[Emulate, subcommand("emulate")]
    | Annotated[Run, subcommand("run")]
    | Annotated[Table, subcommand("table")]
    | Annotated[Limit, subcommand("limit")]
    | Annotated[Longest, subcommand("longest")]
    | Annotated[Sweep, subcommand("sweep")]
    | Annotated[Ablation, subcommand("ablation")]
    | Annotated[Paper, subcommand("paper")]
    | Annotated[Profile, subcommand("profile")]
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
    from benchmarks.commands.arguments import UsageError

    before = signal.signal(signal.SIGTERM, _terminate)
    try:
        code: int = verb.run()
        return code
    except UsageError as error:
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
