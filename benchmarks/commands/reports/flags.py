"""The flags of `list`, `table`, `timeline` and `env`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from benchmarks.commands.flags import Selection


@dataclass(frozen=True, kw_only=True)
class List:
    """Name the workloads and the rows.

    Example: sppo-bench list
    """

    json: bool = False
    """For programs."""


@dataclass(frozen=True, kw_only=True)
class Timeline(Selection):
    """Write the simulated step, and a measured one beside it, as Chrome traces and as a figure.

    Example: sppo-bench timeline tiny-cpu

    Example: sppo-bench timeline --run results/runs/20261124-072759-tiny-cpu
    """

    run: Annotated[Path | None, arg(metavar="DIR")] = None
    """A folder of `sppo-bench run`: draw the plan that ran there, simulated and measured."""
    output: Annotated[Path | None, arg(metavar="DIR")] = None
    """Folder to write into; DIR/timeline, or results/runs/timeline-WORKLOAD, if not given."""


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
class Env:
    """Describe this machine as records do: versions, processor, commit.

    Example: sppo-bench env --json
    """

    json: bool = False
    """For programs."""
