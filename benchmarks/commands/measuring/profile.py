"""`sppo-bench profile`: measure this machine for the planner."""

from __future__ import annotations

import json
import os
import re
import sys
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import msgspec
from tyro.conf import Positional, arg

from benchmarks.commands.arguments import UsageError, refuse
from benchmarks.commands.flags import Json
from benchmarks.commands.measuring.gpu_suite import check_device
from benchmarks.commands.output import show
from benchmarks.launch.ranks import processes
from benchmarks.records import store
from benchmarks.reporting.text_table import Column, rows_table, text_table
from sppo.config import hardware

LABEL = "measured"

GPU_SECONDS = 600.0
GPU_PROFILE = "profile.json"
"""The file that the step writes (`benchmarks.gpu.steps.profile`)."""


@dataclass(frozen=True, kw_only=True)
class Profile(Json):
    """Measure this machine's rates and links as a hardware profile for the planner.

    Example: sppo-bench profile my-machine --ranks 2
    """

    name: Annotated[Positional[str], arg(metavar="NAME")]
    """The profile's name for --hardware: small letters, digits and dashes."""
    gpu: bool = False
    """Measure one CUDA device instead of CPU ranks (docs/gpu.md)."""
    ranks: int = 2
    """Processes that measure at once, an even number: each sends messages to a neighbour."""
    output: Annotated[Path | None, arg(metavar="FILE")] = None
    """File to write or replace; a new file among the profiles if not given."""

    def run(self) -> int:
        """Launch the ranks, show and save the rates; 1 if the launch failed."""
        path = self.check()
        if self.gpu:
            print("measuring one GPU, a minute or two ...", file=sys.stderr)
            return self._show(path, *launch_gpu(path))
        print(f"measuring with {self.ranks} ranks, some minutes ...", file=sys.stderr)
        return self._show(path, *launch(command(self.name, path, self.ranks)))

    def _show(self, path: Path, returncode: int, output: str) -> int:
        """Show the measured profile; the exit code."""
        if returncode != 0:
            print(f"failed with exit code {returncode}:\n{output[-2000:]}", file=sys.stderr)
            return 1
        try:
            measured = msgspec.json.decode(path.read_bytes(), type=hardware.Hardware)
        except (OSError, msgspec.DecodeError, ValueError) as error:
            print(f"failed: {path}: {error}", file=sys.stderr)
            return 1
        values = {"label": LABEL, "path": str(path), "profile": measured}
        show(self.json, values, text(measured))
        print(f"saved to {path}", file=sys.stderr)
        return 0

    def check(self) -> Path:
        """The file to write. Raises UsageError before anything is measured."""
        if not re.fullmatch(r"[a-z0-9][a-z0-9.-]*", self.name):
            raise UsageError(
                f"{self.name!r} is no profile name: small letters, digits, dots, dashes"
            )
        if self.gpu:
            refuse(self, ("ranks",), "--gpu measures one device")
            check_device()
        if self.ranks < 2 or self.ranks % 2:
            raise UsageError(
                f"--ranks {self.ranks}: an even number is needed, every rank has a neighbour"
            )
        path = (self.output or hardware.own_profiles() / f"{self.name}.json").absolute()
        if self.output is None and self.name in hardware.known_profiles():
            raise UsageError(
                f"a profile {self.name} exists: take another name, or --output {path} to replace it"
            )
        if self.output is None:
            with suppress(OSError):  # reported below
                path.parent.mkdir(parents=True, exist_ok=True)
        if not path.parent.is_dir():
            raise UsageError(
                f"no folder {path.parent}; make it, or name another with --output FILE"
            )
        probe = path.with_name(f".{path.name}.{os.getpid()}")
        try:  # os.access says yes to root, in /proc and on a full disk too
            store.write_bytes(probe, b"{}")
            probe.unlink()
        except OSError as error:
            raise UsageError(
                f"{path.parent} cannot be written to ({error.strerror}); "
                "name --output FILE elsewhere"
            ) from None
        return path


def command(name: str, path: Path, ranks: int) -> list[str]:
    """The torchrun command that measures."""
    return processes.torchrun(ranks, "benchmarks.worker.rates.measure_hardware", name, str(path))


def launch_gpu(path: Path) -> tuple[int, str]:
    """Measure one GPU in a process of its own, and write its profile; exit code and output."""
    with tempfile.TemporaryDirectory() as folder:
        words = ["profile", "cuda", f"{GPU_SECONDS:.0f}", folder, f"{folder}/values.json"]
        ended = launch([sys.executable, "-m", "benchmarks.gpu.worker", *words])
        if ended[0] == 0:
            measured = json.loads((Path(folder) / GPU_PROFILE).read_bytes())
            text = json.dumps({**measured, "name": path.stem}, indent=1) + "\n"
            store.write_bytes(path, text.encode())
    return ended


def launch(arguments: Sequence[str]) -> tuple[int, str]:
    """Exit code and output. An interrupt stops all ranks."""
    tree = processes.start(arguments, processes.variables(1, {}))
    try:
        output, _ = tree.process.communicate()
    finally:
        tree.stop()
    return tree.process.returncode, output.decode("utf-8", "replace")


def _rate_column(kind: str) -> Column[hardware.Rates]:
    return kind.replace("_", " "), lambda rates: f"{getattr(rates, kind) / 1e9:,.1f}"


COLUMNS: tuple[Column[hardware.Rates], ...] = (
    (f"{LABEL}, GFLOP/s: tokens", lambda rates: f"{rates.tokens:,}"),
    *map(_rate_column, hardware.RATE_KINDS),
)


def text(profile: hardware.Hardware) -> str:
    """The rates as a table, then the numbers of links and memories."""
    numbers = [
        (name, f"{value:,.6g}")
        for name, value in msgspec.to_builtins(profile).items()
        if isinstance(value, (int, float)) and not isinstance(value, bool)
    ]
    tables = text_table(COLUMNS, profile.rates), rows_table((LABEL, "value"), numbers)
    return "\n\n".join([f"{profile.name}: {profile.source}", *tables])
