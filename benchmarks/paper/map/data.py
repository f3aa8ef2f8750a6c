"""What `sppo-bench paper --map` makes: SPPO's plans and the peers' searches, in one JSON file."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Literal

import msgspec

from benchmarks.emulation.result import Emulation
from benchmarks.paper.map.places import Place
from benchmarks.records import store

SCHEMA = "sppo-paper-map/1"

FILE = "map.json"

COMMITTED = "results/paper/map.json"
"""The committed file, as pages name it."""

COMMAND = "sppo-bench paper --map --publish"


class MapPlan(msgspec.Struct, frozen=True, kw_only=True):
    """SPPO's plan at a place, simulated.

    status: "infeasible" where no plan fits, "refused" where no degrees fill the ranks; `reason`
    says why. step_seconds_if_hidden: the same plan where no message or copy takes time. peaks: of
    the fullest stage. planning_seconds: what the planner took. commit: of the planner's code.
    """

    place: Place
    status: Literal["ok", "infeasible", "refused"]
    reason: str = ""
    settings_text: str = ""
    step_seconds: float | None = None
    step_seconds_if_hidden: float | None = None
    device_peak_bytes: int | None = None
    host_peak_bytes: int | None = None
    planning_seconds: float
    commit: str


class MapSearch(msgspec.Struct, frozen=True, kw_only=True):
    """A peer's settings that fit, emulated at a place.

    how: "grid", the fastest of its grid; "settings", the first of a few that fits, or the answer of
    a committed search that may have left settings out.
    found: None where nothing fits; `reason` says why. layers: of the models from whose counts those
    of `found` are extrapolated; none where the whole model was emulated. trials: settings emulated.
    unanswered: trials that broke, so that the answer may be slower than the best; else "".
    not_tried: settings that might be faster, but the seconds of the search were over. file: of the
    committed search whose answer was emulated anew; "" for a search of the map's own.
    """

    place: Place
    system: str
    how: Literal["grid", "settings"]
    found: Emulation | None
    layers: list[int] = []
    reason: str = ""
    trials: int
    unanswered: str = ""
    not_tried: int = 0
    search_seconds: float
    commit: str
    file: str = ""

    @property
    def is_whole(self) -> bool:
        """Whether no settings of the grid can be faster than the answer."""
        return self.how == "grid" and not self.not_tried and not self.unanswered


class MapData(msgspec.Struct, kw_only=True):
    """All that is made so far. Equal places are replaced."""

    schema: str = SCHEMA
    plans: list[MapPlan] = []
    searches: list[MapSearch] = []

    def plan(self, place: Place) -> MapPlan | None:
        """The plan at a place, if made."""
        return next((plan for plan in self.plans if plan.place == place), None)

    def search(self, place: Place, system: str) -> MapSearch | None:
        """The search at a place, if made."""
        for search in self.searches:
            if (search.place, search.system) == (place, system):
                return search
        return None

    def add(self, entry: MapPlan | MapSearch) -> None:
        """Enter a plan or a search in the place of an equal one."""
        if isinstance(entry, MapPlan):
            self.plans = [plan for plan in self.plans if plan.place != entry.place] + [entry]
            return
        name = (entry.place, entry.system)
        others = [search for search in self.searches if (search.place, search.system) != name]
        self.searches = [*others, entry]


def own_path() -> Path:
    """Where `--publish` writes."""
    return store.published_directory().parent / "paper" / FILE


def committed_path() -> Path:
    """The committed file; it may not be there."""
    return store.readable(own_path())


def read(path: Path) -> MapData:
    """The file's entries; none without a file. Raises OSError, RecordError."""
    if not path.exists():
        return MapData()
    return store.read_json(path, MapData, SCHEMA, f"make the file anew: {COMMAND} --again")


def kept(path: Path) -> MapData:
    """The committed entries, and those of a run's own file in their place. Raises OSError."""
    merged = read(committed_path())
    own = read(path)
    for plan in own.plans:
        merged.add(plan)
    for search in own.searches:
        merged.add(search)
    return merged


@cache
def committed() -> MapData:
    """The committed entries. Raises OSError, RecordError."""
    return read(committed_path())
