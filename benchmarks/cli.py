"""The command line `sppo-bench`. Only the command that runs is imported."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterable, Sequence
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pkgutil import resolve_name
from types import FrameType
from typing import Annotated, Any, Protocol, Union

import tyro
from tyro.conf import FlagCreatePairsOff, Suppress, subcommand

from benchmarks.workloads import DEFAULT
from sppo.config.errors import Infeasible

DESCRIPTION = f"""\
The same long-sequence training under SPPO and its peers (DeepSpeed, Megatron-Core, PyTorch native),
measured and compared.

    sppo-bench run {DEFAULT}

`sppo-bench --version` prints version and commit.

Exit codes: 0 every row ended in a result (ok, oom, host_oom, infeasible, unavailable);
1 a mismatch, a failure, a time-out, a full disk, an infeasible plan of `plan` and `simulate`,
a changed value (`check`), or a slower commit (`compare`);
2 wrong input, with a one-line error;
3 undecided (`compare`), or topics without a difference of which some were skipped (`check`);
130 interrupted, the records so far are kept."""

INTERRUPTED = 130
WRONG_INPUT = 2
FAILED = 1

ENDING_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
"""These end a command as Ctrl-C does."""

COMMANDS = {
    "list": "reports.list:List",
    "plan": "planning.plan:Plan",
    "simulate": "planning.simulate:Simulate",
    "timeline": "reports.timeline:Timeline",
    "emulate": "planning.emulate:Emulate",
    "run": "measuring.run:Run",
    "slurm": "measuring.slurm:Slurm",
    "table": "reports.table:Table",
    "site": "reports.site:Site",
    "track": "reports.track:Track",
    "limit": "measuring.limit:Limit",
    "longest": "measuring.longest:Longest",
    "sweep": "studies.sweep:Sweep",
    "ablation": "studies.ablation:Ablation",
    "paper": "studies.paper:Paper",
    "history": "regression.history:History",
    "compare": "regression.compare:Compare",
    "profile": "measuring.profile:Profile",
    "gpu-suite": "measuring.gpu_suite:GpuSuite",
    "check": "regression.check:Check",
    "env": "reports.env:Env",
}
"""Name -> "module:Class" in benchmarks.commands, in the order of the help."""

SCRIPTS = {
    "slurm sweep": "measuring.slurm:SlurmSweep",
    "slurm longest": "measuring.slurm:SlurmLongest",
    "slurm limit": "measuring.slurm:SlurmLimit",
    "slurm ablation": "measuring.slurm:SlurmAblation",
}
"""Commands of two words: the scripts of studies."""


class Command(Protocol):
    """A dataclass whose fields are its flags and whose docstring is its help."""

    def run(self) -> int:
        """Run the command; the exit code. Raises UsageError, or Infeasible without a plan."""
        ...


def main(arguments: Sequence[str]) -> int:
    """Run one command; the exit code. Wrong flags end in SystemExit(2) with a hint.

    A failure of the machine, such as a full disk, is one line, and the folder of the records.
    """
    before = _end_by(_terminate)
    try:
        return _run(arguments)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED
    except (OSError, MemoryError) as error:
        from benchmarks.records.machine_errors import machine_words

        for line in (f"error: {machine_words(error)}", *getattr(error, "__notes__", ())):
            print(line, file=sys.stderr)
        return FAILED
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _run(arguments: Sequence[str]) -> int:
    if list(arguments) == ["--version"]:
        from benchmarks.records.provenance import version_text

        print(version_text())
        return 0
    from benchmarks.commands.arguments import UsageError, check_values, show_infeasible
    from benchmarks.records.store import RecordError

    command: Command | None = None
    try:
        check_values(arguments)
        command = parse(arguments)
        return command.run()
    except (UsageError, RecordError) as error:
        print(f"error: {error}", file=sys.stderr)
        return WRONG_INPUT
    except Infeasible as error:
        return show_infeasible(command, error)


def parse(arguments: Sequence[str]) -> Command:
    """The command with its flags. Raises SystemExit after a help or a hint.

    Only the named command is imported. The general help and hints on wrong flags import all.
    """
    two_words = " ".join(arguments[:2])
    if two_words in SCRIPTS:
        return _parse([two_words, *arguments[2:]], [two_words])
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
    places = {**COMMANDS, **SCRIPTS}
    choices: list[Any] = [
        Annotated[resolve_name(f"benchmarks.commands.{places[name]}"), subcommand(name)]
        for name in names
    ]
    if len(choices) == 1:
        choices.append(Annotated[None, Suppress])  # tyro needs two choices
    union: Any = Union[tuple(choices)]  # noqa: UP007
    command: Command = tyro.cli(
        union,
        prog="sppo-bench",
        description=DESCRIPTION,
        args=list(arguments),
        config=(FlagCreatePairsOff,),
    )
    return command


Handler = Callable[[int, FrameType | None], Any] | int | signal.Handlers | None


def _end_by(handler: Handler) -> dict[signal.Signals, Handler]:
    """Set the handler of the signals that end a command; the handlers before.

    A signal that is ignored stays ignored, as HUP under nohup. None: a handler outside Python.
    """
    return {
        number: signal.signal(number, handler)
        for number in ENDING_SIGNALS
        if signal.getsignal(number) not in (signal.SIG_IGN, None)
    }


def _terminate(number: int, frame: FrameType | None) -> None:
    """End the command by an interrupt, so that no launch outlives the command.

    Further signals, a second Ctrl-C too, ask for the same end: they are ignored, so inputs are
    removed.
    """
    _end_by(signal.SIG_IGN)
    if number == signal.SIGHUP:
        _leave_dead_terminal()
    raise KeyboardInterrupt


def _leave_dead_terminal() -> None:
    """Send output nowhere if its terminal has hung up: a failed write would end the clean-up."""
    for descriptor in (1, 2):
        try:
            os.write(descriptor, b"")
        except OSError:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, descriptor)
            os.close(nowhere)
