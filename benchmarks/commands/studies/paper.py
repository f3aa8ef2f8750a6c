"""`sppo-bench paper`: the paper's figures and tables made anew, emulated, or in miniature."""

from __future__ import annotations

import sys
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import arg

from benchmarks.commands import arguments
from benchmarks.commands.arguments import UsageError, chosen, usage_errors
from benchmarks.commands.flags import Results
from benchmarks.commands.output import show
from benchmarks.commands.studies.paper_emulation import BY_DEFAULT, PaperEmulation
from benchmarks.commands.studies.paper_map import PaperMap
from benchmarks.commands.studies.paper_measurement import PaperMeasurement
from benchmarks.environment import describe_environment

PAGES = "paper"
"""The folder of the pages below results/runs/."""

TABLE_3 = "table3"

OF_PAGES = ("tables", "pipeline_parallel", "subsequences")
"""Flags of pages alone."""

OF_EMULATIONS = tuple(
    field.name
    for field in fields(PaperEmulation)
    if field.name not in {inherited.name for inherited in fields(Results)}
)
"""Flags of an emulation alone."""

OF_MAPS = ("map", "map_budget", "map_searches", "plans_only")


@dataclass(frozen=True, kw_only=True)
class Paper(PaperMeasurement, PaperMap):
    """Make the paper's figures and tables anew, every number with its label, beside the paper's.

    Every item gets a page, a CSV, a PNG and an SVG; an index page compares all. Numbers come from
    committed emulations, expected plans and live planning, in about a minute. --emulate runs each
    system's own code at the points of fig. 1, 10 and 12 instead, one layout rule a row; its
    verdicts stand beside the paper's. Roles that the same code has emulated come from
    results/cache/. --measure runs all systems in miniature on CPU ranks of this machine.

    Example: sppo-bench paper --figures 1,5 --tables 3 --output pages

    Example: sppo-bench paper --models gpt-7b --systems megatron,deepspeed --figures 10

    Example: sppo-bench paper --measure --figures 7
    """

    figures: Annotated[tuple[str, ...], arg(metavar="NUMBERS")] = ()
    """1, 2, 4 to 12, by comma or space; with neither --figures nor --tables all. Emulated are 1
    (gpt-7b: 1M tokens on 32 GPUs, 2M on 64, 4M on 128), 10 (the 15 points) and 12 (the longest
    sequences); 10 and 12 if none is named."""
    tables: Annotated[tuple[str, ...], arg(metavar="NUMBERS")] = ()
    """2, 3, 4, and beyond the paper: beyond (further hardware, the price of a GB/s or GiB) and map
    (who wins where), by comma or space."""
    pipeline_parallel: Annotated[int | None, arg(aliases=["--pp"], metavar="P")] = None
    """Table 3 also for so many pipeline stages; needs --n."""
    subsequences: Annotated[int | None, arg(aliases=["--n"], metavar="N")] = None
    """Table 3 also for so many subsequences; needs --pp."""
    output: Annotated[Path | None, arg(metavar="DIR")] = None
    """Folder of the pages; results/runs/paper/ if not given. Of an emulation: the folder in which
    the run's folder is made."""

    publish: bool = False
    """Copy the pages to results/paper/pages/, if all are made; of an emulation or a measurement the
    files of whole figures to results/published/; of a map its data to results/paper/."""

    def run(self) -> int:
        """The exit code: 1 where something is not made, broke, or is no result.

        Raises UsageError.
        """
        from benchmarks.paper.figures import FIGURES

        self.check_measurement_flags(OF_PAGES + OF_EMULATIONS + OF_MAPS)
        if self.measure:
            return self.measure_figures(self.figures)
        if self.map:
            return self.make_map()
        arguments.refuse(self, OF_MAPS[1:], "it is of the map: add --map")
        if not self.emulates:
            return self._write_pages()
        arguments.refuse(self, OF_PAGES, "an emulation has figures only")
        return self.emulate_figures(sorted(chosen(self.figures or BY_DEFAULT, FIGURES, "figure")))

    def _write_pages(self) -> int:
        from benchmarks.paper.items import files, registry
        from benchmarks.tracking import pages
        from benchmarks.tracking.tracked_run import live_run

        keys = self._keys()
        pipeline = self._pipeline(keys)
        if self.publish and len(keys) < len(registry.ITEMS):
            raise UsageError(
                "--publish: only all pages are published; leave --figures and --tables out"
            )
        parent = arguments.parent(self)
        folder = parent if self.output is not None else parent / PAGES
        heading = pages.heading(describe_environment(), keys, folder)
        with usage_errors(OSError), live_run(heading, folder, is_off=self.no_wandb) as live:
            written = files.write_items(
                {key: registry.maker(key, pipeline) for key in keys},
                folder,
                lambda item: pages.log_item(live, folder, item.key),
            )
            pages.end(live, files.summary(written))
            if self.publish and not written.not_made:
                print(f"published as {files.publish(folder, written)}", file=sys.stderr)
        values: dict[str, Any] = {"directory": str(folder), **files.as_json(written)}
        show(self.json, values, files.index_text(written))
        print(f"pages: {folder / files.INDEX}", file=sys.stderr)
        if not written.not_made:
            return 0
        names = ", ".join(written.not_made)
        if self.publish:
            print(f"not published, because these items are not made: {names}", file=sys.stderr)
        return int(self.publish or self._names_items())

    def _names_items(self) -> bool:
        """Whether flags name the items; without such a flag all that can be made are asked for."""
        return bool(self.figures or self.tables)

    def _keys(self) -> list[str]:
        """The chosen items. Raises UsageError."""
        from benchmarks.paper.items.registry import FIGURES, TABLES, figure_key, table_key

        every = not self._names_items()
        figures = chosen(self.figures, FIGURES, "figure") if self.figures or every else []
        tables = chosen(self.tables, TABLES, "table") if self.tables or every else []
        keys = [figure_key(number) for number in FIGURES if number in figures]
        return keys + [table_key(number) for number in TABLES if number in tables]

    def _pipeline(self, keys: list[str]) -> tuple[int, int] | None:
        """PP and N of a further table 3. Raises UsageError."""
        stages, subsequences = self.pipeline_parallel, self.subsequences
        if stages is None and subsequences is None:
            return None
        if stages is None or subsequences is None:
            raise UsageError("--pp and --n go together: give both, or neither")
        if stages < 1 or subsequences < 1:
            raise UsageError(f"--pp {stages} --n {subsequences}: each must be at least 1")
        if TABLE_3 not in keys:
            raise UsageError("--pp and --n are of table 3: add --tables 3, or leave them out")
        return stages, subsequences
