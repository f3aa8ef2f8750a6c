"""`sppo-bench paper`: the paper's memory boundaries, emulated; saved after every verdict."""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from typing import Annotated, get_args

from tyro.conf import arg

from benchmarks.commands import arguments
from benchmarks.commands.arguments import UsageError, chosen, usage_errors
from benchmarks.commands.flags import Results
from benchmarks.commands.output import show
from benchmarks.commands.run_folder import run_folder
from benchmarks.paper import reported
from benchmarks.studies import publish


@dataclass(frozen=True, kw_only=True)
class Paper(Results):
    """Emulate the paper's memory boundaries (fig. 10 and 12), each system's own code at full size.

    Each verdict stands beside the paper's. One layout rule per row holds for all points. Roles that
    the same code has emulated come from results/cache/. About 90 minutes on two cores for
    `--readings paper`; hours for both readings.

    Example: sppo-bench paper --models gpt-7b --systems megatron,deepspeed --figures 10
    """

    figures: Annotated[tuple[str, ...], arg(metavar="NUMBERS")] = ("10", "12")
    """1 (gpt-7b: 1M tokens on 32 GPUs, 2M on 64, 4M on 128), 10 (the 15 points) and 12 (the longest
    sequences), by comma or space."""
    models: Annotated[tuple[str, ...], arg(metavar="NAMES")] = ()
    """Of fig. 10: gpt-7b, gpt-13b, gpt-65b, by comma or space; all if not given. Fig. 1 and 12 have
    gpt-7b alone."""
    systems: Annotated[tuple[str, ...], arg(metavar="NAMES")] = ()
    """deepspeed, megatron, native, sppo, by comma or space; these if not given. Only by name:
    deepspeed-ours, megatron-ours. A row of `run` stands for its system."""
    readings: Annotated[tuple[str, ...], arg(metavar="NAMES")] = ("paper", "best")
    """`paper`: the layouts of the paper's runs. `best`: of each peer the fastest settings of its
    grid that fit. By comma or space; both if not given."""
    sequences_per_step: Annotated[int, arg(metavar="COUNT")] = 4
    """Sequences of an optimizer step, at every point and for every system."""
    time_limit: float = 1800.0
    """Seconds of one emulated rank."""
    again: bool = False
    """Run every role, even if the same code has emulated the same before."""
    stale: bool = False
    """Accept counts of older code from results/cache/, marked `stale` with their commit."""

    def run(self) -> int:
        """The exit code: 1 where a role failed or a search was not answered. Raises UsageError."""
        from benchmarks.emulation import resuming
        from benchmarks.emulation.cache import default_cache
        from benchmarks.emulation.emulator import Emulator
        from benchmarks.paper import boundaries_report
        from benchmarks.paper.boundaries import PaperComparison
        from benchmarks.paper.figures import FIGURES, emulate_figure
        from benchmarks.paper.layout_rules import LAYOUT_RULES, Reading

        numbers = sorted(chosen(self.figures, FIGURES, "figure"))
        known_systems = sorted({rule.system for rule in LAYOUT_RULES})
        systems = arguments.chosen_systems(self.systems, known_systems)
        by_default = {rule.system for rule in LAYOUT_RULES if not rule.by_name_only}
        if not self.systems:
            systems = [system for system in systems if system in by_default]
        known_models = list(dict.fromkeys(point.model for point in reported.points()))
        models = chosen(self.models, known_models, "model")
        readings = set(chosen(self.readings, get_args(Reading), "reading"))
        rules = [
            rule for rule in LAYOUT_RULES if rule.system in systems and rule.readings & readings
        ]
        points = [point for point in reported.points() if point.model in models]
        arguments.check_time_limit(self.time_limit)
        if self.sequences_per_step < 1:
            raise UsageError("--sequences-per-step must be positive")
        if self.publish and self.stale:
            raise UsageError("--publish: stale counts are not published; leave --stale out")
        if self.publish and (self.models or self.systems or readings != set(get_args(Reading))):
            raise UsageError(
                "--publish: only whole figures are published; leave --models, --systems and "
                "--readings out"
            )
        count = self.sequences_per_step
        workload = replace(points[0].workload(), name="paper")
        emulator = Emulator(
            parent=arguments.parent(self),
            time_limit_seconds=self.time_limit,
            cache=None if self.again else default_cache(accept_stale=self.stale),
        )
        folder = run_folder(self, workload, code=resuming.code_of(systems))
        with usage_errors(OSError), folder as directory:
            emulator = emulator.for_search(directory)
            comparison = PaperComparison(
                rules=rules, points=points, emulator=emulator, sequences_per_step=count
            )
            figures = [emulate_figure(number, comparison) for number in numbers]
        show(self.json, figures, "\n\n".join(map(boundaries_report.text, figures)))
        print(f"saved to {emulator.parent}", file=sys.stderr)
        broken = any(figure.is_broken for figure in figures)
        if self.publish and not broken:
            for number in numbers:
                name = f"fig{number}-{count}-sequences"
                publish.publish(emulator.parent, f"fig{number}", f"emulation/{name}")
        return 1 if broken else 0
