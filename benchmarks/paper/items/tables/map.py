"""Beyond the paper: where SPPO stops paying, and who wins instead."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from benchmarks.paper.items import map_drawing, map_words
from benchmarks.paper.items.item import Item, NotCommitted, Point, Table
from benchmarks.paper.items.profile import kernel_limit_share
from benchmarks.paper.map import data, places
from benchmarks.paper.map.data import COMMITTED, MapData, MapPlan, MapSearch
from benchmarks.paper.map.places import Place
from benchmarks.paper.map.verdict import PeerStep, PlaceVerdict, bound_step, verdict_at
from benchmarks.reporting import style
from sppo.config.sizes import format_bytes

QUANTITY, UNIT = "step", "s"

RATIO, HIDDEN = "ratio of steps", "messages hidden"

BOUND = "not emulated: a lower bound"


def make() -> Item:
    """The item. Raises NotCommitted without the map's data; OSError, RecordError."""
    made = data.committed()
    if not made.plans:
        raise NotCommitted(f"the map's data is not committed: `{data.COMMAND}` makes it")
    maps = {name: verdicts(made, places.on_the_map(name)) for name in places.HARDWARE}
    links = verdicts(made, _link_places())
    every = [verdict for rows in maps.values() for verdict in rows]
    return Item(
        key="map",
        title=f"Beyond the paper: who wins where, {places.MODEL}, one sequence a step",
        compares="SPPO's simulated step beside the peers': emulated where searched, else a bound",
        points=[
            point
            for verdict in {each.place: each for each in (*every, *links)}.values()
            if verdict.plan is not None
            for point in _points(verdict)
        ],
        agreement="nothing to compare with",
        verdict=map_words.verdict_words(maps[places.HARDWARE[0]], made),
        notes=list(map_words.notes(made, every, links)),
        tables=[
            *(_map_table(name, rows) for name, rows in maps.items()),
            _link_table(links),
            _search_table(made),
            _limits_table(every),
        ],
        draw=lambda figure: map_drawing.draw(figure, maps),
        inches=(11.0, 11.0),
        drawn_source=(
            "SPPO simulated · peers emulated and simulated (bold, at most), else a computed bound "
            "(at least) · assumed profiles · ratio: best peer's step over SPPO's, messages exposed"
        ),
    )


def verdicts(made: MapData, where: Sequence[Place]) -> list[PlaceVerdict]:
    """The verdicts of places, in their order."""
    return [verdict_at(place, made) for place in where]


def _link_places() -> list[Place]:
    changed = list(places.on_links())
    unchanged = dict.fromkeys(place.unchanged for place in changed)
    return [*unchanged, *changed]


def _points(verdict: PlaceVerdict) -> Iterator[Point]:
    place, plan = verdict.place, verdict.plan
    assert plan is not None
    where = ", ".join(part for part in (place.cell, place.change) if part)
    share = None
    if plan.step_seconds is not None:
        share = kernel_limit_share(place.workload, plan.step_seconds, place.profile)
    exposed = Point(
        series=f"SPPO, {place.hardware}",
        place=where,
        quantity=QUANTITY,
        unit=UNIT,
        value=plan.step_seconds,
        outcome="" if plan.status == "ok" else f"{plan.status}: {plan.reason}",
        label="simulated",
        source=f"{COMMITTED}, commit {plan.commit[:9]}, profile {place.hardware} (assumed)",
        settings=plan.settings_text,
        kernel_limit_share=share,
    )
    yield from _with_hidden(exposed, plan.step_seconds_if_hidden)
    for peer in verdict.peers:
        for step in (peer, *filter(None, (peer.floor,))):
            yield from _with_hidden(_peer_point(step, place, where), step.seconds_if_hidden)
    yield from _ratio_points(verdict, where)


def _with_hidden(exposed: Point, seconds: float | None) -> Iterator[Point]:
    """A step, and the same where no message takes time, if there is one."""
    yield exposed
    if seconds is not None:
        quantity = f"{exposed.quantity}, {HIDDEN}"
        yield replace(exposed, quantity=quantity, value=seconds, kernel_limit_share=None)


def _peer_point(peer: PeerStep, place: Place, where: str) -> Point:
    name = style.look(peer.system).name
    emulated = peer.label == "emulated"
    origin = COMMITTED if emulated else f"{BOUND}; benchmarks/paper/map/bound.py"
    return Point(
        series=f"{name}, {place.hardware}",
        place=where,
        quantity=QUANTITY if emulated else "bound of a step",
        unit=UNIT,
        value=peer.seconds,
        outcome="" if peer.seconds is not None else f"cannot run: {peer.reason}",
        label=peer.label,
        source=f"{origin}, profile {place.hardware} (assumed)",
        settings=peer.settings_text,
    )


def _ratio_points(verdict: PlaceVerdict, where: str) -> Iterator[Point]:
    """Both ratios of a cell; `settings` says whether they are exact."""
    sides = {"": "exact", "≤ ": "at most", "≥ ": "at least"}
    for quantity, ratio, side in (
        (RATIO, verdict.ratio, verdict.side),
        (f"{RATIO}, {HIDDEN}", verdict.ratio_if_hidden, verdict.side_if_hidden),
    ):
        if ratio is not None:
            yield Point(
                series=f"best peer over SPPO, {verdict.place.hardware}",
                place=where,
                quantity=quantity,
                unit="x",
                value=ratio,
                label="computed",
                source="the steps and bounds of this place",
                settings=sides[side],
            )


def _map_table(hardware: str, rows: Sequence[PlaceVerdict]) -> Table:
    """A row a length, a column a number of tokens a GPU."""
    by_cell = {(row.place.seq, places.tokens_per_gpu(row.place)): row for row in rows}
    shares = [f"{share}K" for share in reversed(places.TOKENS_PER_GPU)]
    seqs = list(dict.fromkeys(row.place.seq for row in rows))
    body = [[seq, *(_cell(by_cell.get((seq, share))) for share in shares)] for seq in seqs]
    titles = ["length", *(f"{share} tokens a GPU" for share in shares)]
    return Table(heading=f"Who wins on {hardware}", titles=titles, rows=body)


def _cell(verdict: PlaceVerdict | None) -> str:
    return (
        "" if verdict is None else f"{verdict.place.gpus:,} GPUs: {map_words.cell_words(verdict)}"
    )


def _link_table(rows: Sequence[PlaceVerdict]) -> Table:
    body = [
        [
            row.place.cell,
            row.place.change or "as in the profile",
            _step_words(row.plan),
            "" if row.best_peer is None else f"{row.best_peer.seconds:.1f} s",
            "" if row.best_peer is None else f"{row.best_peer.system}, {row.best_peer.label}",
            map_words.ratio_words(row.ratio, row.side),
            map_words.ratio_words(row.ratio_if_hidden, row.side_if_hidden),
            map_words.WORDS[row.winner],
        ]
        for row in sorted(rows, key=lambda row: (row.place.tokens, row.place.gpus))
    ]
    return Table(
        heading=f"Other links, {places.HARDWARE[0]}",
        titles=[
            *("place", "changed", "SPPO", "best peer", "which", "ratio"),
            *("ratio, messages hidden", "winner"),
        ],
        rows=body,
        align="llrrlrrl",
    )


def _step_words(plan: MapPlan | None) -> str:
    if plan is None:
        return "not planned"
    return "no plan" if plan.step_seconds is None else f"{plan.step_seconds:.1f} s"


def _search_table(made: MapData) -> Table:
    by_size = sorted(made.searches, key=lambda search: (search.place.tokens, search.place.gpus))
    return Table(
        heading="Emulated peers",
        titles=["place", "peer", "settings", "how", "step", "if hidden", "bound", "device peak"],
        rows=[_search_row(search) for search in by_size],
        align="llllrrrr",
    )


def _search_row(search: MapSearch) -> list[str]:
    time = search.found.simulated_time if search.found else None
    bound = bound_step(search.system, search.place)
    peaks = [role.peak_device_bytes or 0 for role in search.found.roles] if search.found else []
    return [
        search.place.cell,
        style.look(search.system).name,
        search.found.settings_text if search.found else f"none: {search.reason}",
        map_words.how_words(search),
        "" if time is None else f"{time.step_seconds:.1f} s",
        "" if time is None else f"{time.step_seconds_if_hidden:.1f} s",
        "" if bound.seconds is None else f"{bound.seconds:.1f} s",
        format_bytes(max(peaks)) if peaks else "",
    ]


def _limits_table(rows: Sequence[PlaceVerdict]) -> Table:
    """Where SPPO has no plan, and why."""
    body = [
        [row.place.cell, row.place.hardware, row.plan.status, _short_reason(row.plan)]
        for row in rows
        if row.plan is not None and row.plan.step_seconds is None
    ]
    titles = ["place", "hardware", "SPPO", "reason"]
    return Table(heading="Where SPPO has no plan", titles=titles, rows=body)


def _short_reason(plan: MapPlan) -> str:
    """What is short, or how many ranks can be filled."""
    if plan.status == "infeasible":
        return plan.reason.partition(". ")[0]
    return plan.reason.rpartition("; ")[2]
