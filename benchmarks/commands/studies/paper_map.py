"""`sppo-bench paper --map`: plans and searches beyond the paper; saved one by one."""

from __future__ import annotations

import shutil
import sys
from dataclasses import dataclass, fields
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from tyro.conf import arg

from benchmarks.commands import arguments
from benchmarks.commands.arguments import UsageError, usage_errors
from benchmarks.commands.output import show
from benchmarks.commands.studies.paper_emulation import PaperEmulation

if TYPE_CHECKING:
    from benchmarks.paper.map.data import MapData

FOLDER = "paper-map"
"""The folder of the map below results/runs/."""

SEARCH_SECONDS = 900.0
"""Of one peer's search at one place, if nothing else is asked."""

ALLOWED = ("again", "time_limit", "no_wandb")
"""Flags of an emulation that the map takes too."""


@dataclass(frozen=True, kw_only=True)
class PaperMap(PaperEmulation):
    """The flags of `paper --map`, and the map."""

    map: bool = False
    """Make the data of `--tables beyond,map` anew: SPPO's plans on A100, H100, H200 and B200, up to
    64M tokens and 4,096 GPUs, and the peers' committed answers or a few of their settings.
    Minutes. The same command goes on where it was stopped. --publish copies the data to
    results/paper/map.json."""
    map_searches: bool = False
    """Of the map: search the peers' whole grids too, at seven places. Hours."""
    map_budget: Annotated[float, arg(metavar="SECONDS")] = SEARCH_SECONDS
    """Seconds of the map's search of one peer at one place."""
    plans_only: bool = False
    """Of the map: SPPO's plans alone. --again keeps the peers' searches then."""

    def make_map(self) -> int:
        """Make what is missing; the exit code: 1 where a search broke. Raises UsageError."""
        from benchmarks.emulation.cache import default_cache
        from benchmarks.emulation.emulator import Emulator
        from benchmarks.launch.progress import Lines
        from benchmarks.paper.map import data, places
        from benchmarks.paper.map.run import MapRun
        from benchmarks.records.store import RecordError

        self._check_map()
        parent = arguments.parent(self)
        folder = parent if self.output is not None else parent / FOLDER
        path = folder / data.FILE
        with usage_errors(OSError, RecordError):
            lines = Lines()
            run = MapRun(
                path=path,
                data=self._known(path),
                emulator=Emulator(
                    parent=folder,
                    time_limit_seconds=self.time_limit,
                    cache=None if self.again else default_cache(),
                    progress=lines,
                ),
                budget_seconds=self.map_budget,
                note=lines.note,
            )
            run.plan(places.planned())
            if not self.plans_only:
                for system in places.PEERS:
                    run.take_committed(places.tried(), system)
                    run.try_settings(places.tried(), system)
                if self.map_searches:
                    run.search(product(places.searched(), places.PEERS))
            run.save()
            if self.publish:
                shutil.copyfile(path, data.own_path())
                print(f"published as {data.own_path()}", file=sys.stderr)
        broken = [search for search in run.data.searches if search.unanswered]
        self._show_map(path, run.data, len(broken))
        return int(bool(broken))

    def _known(self, path: Path) -> MapData:
        """The entries that are not made anew. Raises OSError, RecordError."""
        from benchmarks.paper.map import data

        known = data.kept(path)
        if not self.again:
            return known
        return data.MapData(searches=known.searches if self.plans_only else [])

    def _show_map(self, path: Path, made: Any, broken: int) -> None:
        values = {
            "file": str(path),
            "plans": len(made.plans),
            "searches": len(made.searches),
            "unanswered": broken,
        }
        show(self.json, values, f"{len(made.plans)} plans, {len(made.searches)} searches")
        print(f"saved to {path}", file=sys.stderr)

    def _check_map(self) -> None:
        own = {field.name: field.default for field in fields(PaperEmulation)}
        flags = own.keys() - {"json", "output", "publish", *ALLOWED}
        given = [name for name in flags if getattr(self, name) != own[name]]
        arguments.refuse(self, given, "the map has fixed places and systems")
        arguments.refuse(
            self,
            ("figures", "tables", "pipeline_parallel", "subsequences"),
            "the map makes data; the pages are made without --map",
        )
        arguments.check_time_limit(self.time_limit)
        if self.map_searches and self.plans_only:
            raise UsageError("--map-searches with --plans-only: leave one of them out")
        if not self.map_budget > 0:
            raise UsageError(f"--map-budget {self.map_budget:g}: give positive seconds")
        if self.map_budget != SEARCH_SECONDS and not self.map_searches:
            raise UsageError("--map-budget is of the searches: add --map-searches")
