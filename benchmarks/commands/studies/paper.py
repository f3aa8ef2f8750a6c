"""`sppo-bench paper`: the paper's memory boundaries, emulated; saved after every verdict."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated

import msgspec
from tyro.conf import arg

from benchmarks.commands import arguments
from benchmarks.commands.arguments import UsageError
from benchmarks.commands.flags import Results
from benchmarks.commands.output import show_json
from benchmarks.paper import reported
from benchmarks.studies import publish
from sppo.config.errors import NotBuilt
from sppo.config.workload import Workload

if TYPE_CHECKING:
    from benchmarks.emulation.emulator import Emulator
    from benchmarks.paper.readings import Reading


@dataclass(frozen=True, kw_only=True)
class Paper(Results):
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

    def run(self) -> int:
        """The exit code: 1 where a role failed or a search was not answered. Raises UsageError."""
        from benchmarks.paper import boundaries, boundaries_report
        from benchmarks.paper.figures import FIGURES, emulate_figure, is_broken

        numbers = _chosen(self.figures, FIGURES, "--figures")
        readings = self._readings()
        points = [point for point in reported.points() if point.model in self._models()]
        if self.sequences_per_step < 1 or self.time_limit <= 0:
            raise UsageError("--sequences-per-step and --time-limit must be positive")
        if self.publish and (self.models or self.systems):
            raise UsageError(
                "--publish: only whole figures are published; leave --models, --systems out"
            )
        count = self.sequences_per_step
        try:
            workload = replace(boundaries.workload_of(points[0], count), name="paper")
            emulator = self._emulator(workload)
            figures = [
                emulate_figure(number, readings, points, emulator, count) for number in numbers
            ]
        except (ValueError, NotBuilt, OSError) as error:
            raise UsageError(error) from None
        if self.json:
            show_json([msgspec.to_builtins(figure) for figure in figures])
        else:
            print("\n\n".join(boundaries_report.text(figure) for figure in figures))
        print(f"saved to {emulator.parent}", file=sys.stderr)
        broken = any(is_broken(figure) for figure in figures)
        if self.publish and not broken:
            for number in numbers:
                name = f"fig{number}-{count}-sequences"
                publish.publish(emulator.parent, f"fig{number}", "emulation", name)
        return 1 if broken else 0

    def _emulator(self, workload: Workload) -> Emulator:
        """It writes into a new folder. Raises OSError."""
        from benchmarks.emulation.cache import default_cache
        from benchmarks.emulation.emulator import Emulator
        from benchmarks.launch.run import new_directory

        return Emulator(
            parent=new_directory(arguments.parent(self), workload),
            time_limit_seconds=self.time_limit,
            cache=None if self.again else default_cache(),
        )

    def _models(self) -> list[str]:
        known = list(dict.fromkeys(point.model for point in reported.points()))
        return _chosen(self.models, known, "--models")

    def _readings(self) -> list[Reading]:
        from benchmarks.paper.readings import READINGS

        known = sorted({reading.system for reading in READINGS})
        asked = _chosen(self.systems, known, "--systems")
        return [reading for reading in READINGS if reading.system in asked]


def _chosen(given: tuple[str, ...], known: Sequence[str], name: str) -> list[str]:
    """Those of the known that were asked for, all if none was. Raises UsageError."""
    asked = arguments.names(given)
    unknown = [value for value in asked if value not in known]
    if unknown:
        raise UsageError(f"{name} {', '.join(unknown)}: known are {', '.join(known)}")
    return [value for value in known if value in asked] or list(known)
