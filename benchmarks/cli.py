"""The command line `sppo-bench`. Commands are imported when asked for."""

from __future__ import annotations

import importlib
import signal
import sys
from collections.abc import Iterable, Sequence
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from types import FrameType
from typing import Annotated, Any, Protocol, Union

import tyro
from tyro.conf import FlagCreatePairsOff, Suppress, subcommand

from benchmarks.workloads import DEFAULT

DESCRIPTION = f"""\
The same long-sequence training under SPPO, Megatron-Core and DeepSpeed, measured and compared.

    sppo-bench run {DEFAULT}

Exit codes: 0 every asked row ended in a result (ok, oom, host_oom, infeasible, unavailable);
1 a mismatch, a failure, a time-out, or an infeasible plan; 2 wrong input, told in one line;
130 interrupted, the records so far are kept."""

INTERRUPTED = 130
WRONG_INPUT = 2

COMMANDS = {
    "list": "reports.list:List",
    "plan": "planning.plan:Plan",
    "simulate": "planning.simulate:Simulate",
    "timeline": "reports.timeline:Timeline",
    "emulate": "planning.emulate:Emulate",
    "run": "measuring.run:Run",
    "table": "reports.table:Table",
    "limit": "measuring.limit:Limit",
    "longest": "measuring.longest:Longest",
    "sweep": "studies.sweep:Sweep",
    "ablation": "studies.ablation:Ablation",
    "paper": "studies.paper:Paper",
    "profile": "measuring.profile:Profile",
    "env": "reports.env:Env",
}
"""Name -> "module:Class" below benchmarks.commands, in the order of the help."""


class Command(Protocol):
    """A dataclass whose fields are its flags and whose docstring is its help."""

    def run(self) -> int:
        """Do it; returns the exit code. Raises UsageError."""
        ...


def main(arguments: Sequence[str]) -> int:
    """Run one command; returns the exit code. Wrong flags end in SystemExit(2) with a hint."""
    command = parse(arguments)
    from benchmarks.commands.arguments import UsageError

    before = signal.signal(signal.SIGTERM, _terminate)
    try:
        return command.run()
    except UsageError as error:
        print(f"error: {error}", file=sys.stderr)
        return WRONG_INPUT
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED
    finally:
        signal.signal(signal.SIGTERM, before)


def parse(arguments: Sequence[str]) -> Command:
    """The command with its flags. Raises SystemExit after a help or a hint.

    Only the command asked for is imported, but for the general help and for hints on wrong flags,
    which come from all commands.
    """
    asked = [name for name in arguments[:1] if name in COMMANDS]
    if asked:
        with redirect_stdout(StringIO()), redirect_stderr(StringIO()):
            try:
                return _parse(arguments, asked)
            except SystemExit as ended:
                is_help = ended.code == 0
        if is_help:
            return _parse(arguments, asked)
    return _parse(arguments, COMMANDS)


def _parse(arguments: Sequence[str], names: Iterable[str]) -> Command:
    choices = [Annotated[_load(name), subcommand(name)] for name in names]
    if len(choices) == 1:
        choices.append(Annotated[None, Suppress])  # tyro asks for two at least
    union: Any = Union[tuple(choices)]  # noqa: UP007
    command: Command = tyro.cli(
        union,
        prog="sppo-bench",
        description=DESCRIPTION,
        args=list(arguments),
        config=(FlagCreatePairsOff,),
    )
    return command


def _load(name: str) -> Any:
    module, attribute = COMMANDS[name].split(":")
    return getattr(importlib.import_module(f"benchmarks.commands.{module}"), attribute)


def _terminate(number: int, frame: FrameType | None) -> None:
    """A TERM ends the command as an interrupt does: no launch outlives it."""
    raise KeyboardInterrupt
