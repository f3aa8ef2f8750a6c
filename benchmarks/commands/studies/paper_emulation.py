"""`sppo-bench paper --emulate`: the paper's memory boundaries; saved after every verdict."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import Annotated, get_args

from tyro.conf import arg

from benchmarks.commands import arguments
from benchmarks.commands.arguments import UsageError, chosen, usage_errors
from benchmarks.commands.flags import Results
from benchmarks.commands.output import show
from benchmarks.commands.run_folder import run_folder
from benchmarks.commands.tracked import tracked
from benchmarks.paper import reported
from benchmarks.studies import publish

BY_DEFAULT = ("10", "12")
"""Figures that are emulated where none is named."""

SEQUENCES_PER_STEP = 4


@dataclass(frozen=True, kw_only=True)
class PaperEmulation(Results):
    """The flags of `paper --emulate`, and the emulation. Each flag implies --emulate."""

    emulate: bool = False
    """Emulate fig. 1, 10 or 12 instead of writing pages: each system's own code at full size. About
    90 minutes on two cores for `--readings paper`; hours for both readings. --models, --systems,
    --readings, --sequences-per-step, --time-limit, --from-searches, --again, --stale and --resume
    imply it."""
    models: Annotated[tuple[str, ...], arg(metavar="NAMES")] = ()
    """Of fig. 10: gpt-7b, gpt-13b, gpt-65b, by comma or space; all if not given. Fig. 1 and 12 have
    gpt-7b alone."""
    systems: Annotated[tuple[str, ...], arg(metavar="NAMES")] = ()
    """deepspeed, megatron, native, sppo, by comma or space; these if not given. Only by name:
    deepspeed-ours, megatron-ours. A row of `run` stands for its system."""
    readings: Annotated[tuple[str, ...], arg(metavar="NAMES")] = ()
    """`paper`: the layouts of the paper's runs. `best`: of each peer the fastest settings of its
    grid that fit. By comma or space; both if not given."""
    sequences_per_step: Annotated[int | None, arg(metavar="COUNT")] = None
    """Sequences of an optimizer step, at every point and for every system; 4 if not given."""
    time_limit: float = 1800.0
    """Seconds of one emulated rank."""
    from_searches: bool = False
    """Of fig. 1 and 10: rows at their best have the answers of committed searches that tried every
    setting, with as many sequences a step (`emulate SYSTEM W --tuned --publish`). The answers are
    emulated anew; the other rows are searched."""
    again: bool = False
    """Run every role, even if the same code has emulated the same before."""
    stale: bool = False
    """Accept counts of older code from results/cache/, marked `stale` with their commit."""

    @property
    def emulates(self) -> bool:
        """Whether --emulate or a flag that implies it was given, or a run is resumed."""
        own = {field.name: field.default for field in fields(PaperEmulation)}
        inherited = {field.name for field in fields(Results)}
        given = (getattr(self, name) != own[name] for name in own.keys() - inherited)
        return self.resume is not None or any(given)

    def _check_whole(self, figures: Sequence[str], readings: set[str], count: int) -> None:
        """Refuse to publish a part. The paper's reading alone may stand where no other one does."""
        from benchmarks.paper.items import published
        from benchmarks.paper.layout_rules import Reading

        if self.models or self.systems or readings not in ({"paper"}, set(get_args(Reading))):
            raise UsageError(
                "--publish: only whole figures are published; leave --models, --systems and "
                "--readings best out"
            )
        for figure in figures if readings == {"paper"} else ():
            known = published.read(figure, count)
            rows = () if known is None else (*known.verdicts, *known.longest)
            if any(getattr(row, "at_best", False) for row in rows):
                raise UsageError(
                    f"--publish: fig. {figure} is committed with rows at their best; leave "
                    "--readings out"
                )

    def emulate_figures(self, figures: Sequence[str]) -> int:
        """Emulate these figures.

        The exit code: 1 where a role failed or a search was not answered. Raises UsageError.
        """
        from benchmarks.emulation import resuming
        from benchmarks.emulation.cache import default_cache
        from benchmarks.emulation.emulator import Emulator
        from benchmarks.emulation.forked.preloaded import ranks_of_systems
        from benchmarks.paper import boundaries_report
        from benchmarks.paper.boundaries import PaperComparison
        from benchmarks.paper.figures import emulate_figure
        from benchmarks.paper.layout_rules import LAYOUT_RULES, Reading
        from benchmarks.tracking import searches

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
        count = SEQUENCES_PER_STEP if self.sequences_per_step is None else self.sequences_per_step
        arguments.check_time_limit(self.time_limit)
        if count < 1:
            raise UsageError("--sequences-per-step must be positive")
        if self.publish and self.stale:
            raise UsageError("--publish: stale counts are not published; leave --stale out")
        if self.publish:
            self._check_whole(figures, readings, count)
        workload = replace(points[0].workload(), name="paper")
        emulator = Emulator(
            parent=arguments.parent(self),
            time_limit_seconds=self.time_limit,
            cache=None if self.again else default_cache(accept_stale=self.stale),
        )
        folder = run_folder(self, workload, code=resuming.code_of(systems))
        with (
            usage_errors(OSError),
            folder as directory,
            tracked(self, directory) as live,
            ranks_of_systems() as ranks_of,
        ):
            emulator = emulator.for_search(directory)
            comparison = PaperComparison(
                rules=rules,
                points=points,
                emulator=emulator,
                sequences_per_step=count,
                from_searches=self.from_searches,
                ranks_of=ranks_of,
            )
            emulated = [
                emulate_figure(number, comparison, partial(searches.log_row, live, number))
                for number in figures
            ]
            broken = any(figure.is_broken for figure in emulated)
            searches.end_figures(live, emulated, int(broken))
        show(self.json, emulated, "\n\n".join(map(boundaries_report.text, emulated)))
        print(f"saved to {emulator.parent}", file=sys.stderr)
        if self.publish and not broken:
            for number in figures:
                name = f"fig{number}-{count}-sequences"
                publish.publish(emulator.parent, f"fig{number}", f"emulation/{name}")
        return 1 if broken else 0
