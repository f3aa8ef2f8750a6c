"""`sppo-bench profile`: measure this machine for the planner."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import msgspec
from tyro.conf import Positional, arg

from benchmarks.commands.arguments import UsageError
from benchmarks.commands.output import show_json
from benchmarks.launch.processes import variables
from sppo.config import hardware

GRACE_SECONDS = 10.0
"""From TERM to KILL."""

LABEL = "measured"


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

    def run(self) -> int:
        """Launch the ranks, show the rates and say where they lie; 1 if the launch failed."""
        path = self.check()
        print(f"measuring with {self.ranks} ranks, some minutes ...", file=sys.stderr)
        returncode, output = launch(command(self.name, path, self.ranks))
        if returncode != 0:
            print(f"failed with exit code {returncode}:\n{output[-2000:]}", file=sys.stderr)
            return 1
        try:
            measured = msgspec.json.decode(path.read_bytes(), type=hardware.Hardware)
        except (OSError, msgspec.DecodeError, ValueError) as error:
            print(f"failed: {path}: {error}", file=sys.stderr)
            return 1
        if self.json:
            show_json({"label": LABEL, "path": str(path), "profile": msgspec.to_builtins(measured)})
        else:
            print(text(measured))
        print(f"saved to {path}", file=sys.stderr)
        return 0

    def check(self) -> Path:
        """The file to write. Raises UsageError before anything is measured."""
        if not re.fullmatch(r"[a-z0-9][a-z0-9.-]*", self.name):
            raise UsageError(
                f"{self.name!r} is no profile name: small letters, digits, dots, dashes"
            )
        if self.ranks < 2 or self.ranks % 2:
            raise UsageError(
                f"--ranks {self.ranks}: an even number, every rank sends to a neighbour"
            )
        path = (self.output or hardware.own_profiles() / f"{self.name}.json").absolute()
        if self.output is None and self.name in hardware.known_profiles():
            raise UsageError(
                f"a profile {self.name} exists: take another name, or --output {path} to replace it"
            )
        if self.output is None:
            with suppress(OSError):  # said below
                path.parent.mkdir(parents=True, exist_ok=True)
        if not path.parent.is_dir():
            raise UsageError(
                f"no folder {path.parent}; make it, or name another with --output FILE"
            )
        if not os.access(path.parent, os.W_OK):
            raise UsageError(f"{path.parent} cannot be written to; name --output FILE elsewhere")
        return path


def command(name: str, path: Path, ranks: int) -> list[str]:
    """The torchrun command that measures."""
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    return [
        *torchrun,
        "--nproc-per-node",
        str(ranks),
        "-m",
        "benchmarks.worker.measure_hardware",
        name,
        str(path),
    ]


def launch(arguments: Sequence[str]) -> tuple[int, str]:
    """Exit code and output. An interrupt stops the ranks: torchrun passes a TERM on to them."""
    process = subprocess.Popen(
        arguments,
        env={**os.environ, **variables(1, {})},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        output, _ = process.communicate()
        return process.returncode, output
    finally:
        process.terminate()  # nothing, if it has ended
        try:
            process.wait(GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()


def text(found: hardware.Hardware) -> str:
    """The rates as a table, then the other numbers."""
    from tabulate import tabulate

    kinds = ("dense_forward", "dense_backward", "attention_forward", "attention_backward")
    rows = [
        (f"{rates.tokens:,}", *(f"{getattr(rates, kind) / 1e9:,.1f}" for kind in kinds))
        for rates in found.rates
    ]
    headers = (f"{LABEL}, GFLOP/s: tokens", *(kind.replace("_", " ") for kind in kinds))
    numbers = [
        (name, f"{value:,.6g}")
        for name, value in msgspec.to_builtins(found).items()
        if isinstance(value, (int, float)) and not isinstance(value, bool)
    ]
    return "\n\n".join(
        [
            f"{found.name}: {found.source}",
            tabulate(rows, headers=headers, tablefmt="github", disable_numparse=True),
            tabulate(numbers, headers=(LABEL, "value"), tablefmt="github", disable_numparse=True),
        ]
    )
