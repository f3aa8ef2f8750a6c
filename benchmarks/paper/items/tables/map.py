"""Beyond the paper: where SPPO stops paying, and who wins instead."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from benchmarks.paper.items import map_drawing
from benchmarks.paper.items.item import Item, NotCommitted, Point, Table
from benchmarks.paper.items.profile import kernel_limit_share
from benchmarks.paper.items.tables.beyond import COMMITTED
from benchmarks.paper.map import data, places
from benchmarks.paper.map.data import MapData, MapPlan, MapSearch
from benchmarks.paper.map.places import Place
from benchmarks.paper.map.verdict import PeerStep, PlaceVerdict, bound_step, verdict_at
from benchmarks.reporting import style
from sppo.config.sizes import format_bytes

QUANTITY, UNIT = "step", "s"

BOUND = "not emulated: a lower bound"

WORDS = {
    "SPPO alone": "SPPO alone",
    "SPPO": "SPPO",
    "a peer": "peer",
    "SPPO cannot": "SPPO cannot run",
    "open": "open",
    "nobody": "nobody",
    "not planned": "not planned",
}
"""Of a winner, in a cell."""


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
            for point in _points(verdict)
        ],
        agreement="nothing to compare with",
        verdict=_verdict(maps[places.HARDWARE[0]], made),
        notes=list(_notes(made)),
        tables=[
            *(_map_table(name, rows) for name, rows in maps.items() if rows),
            _link_table(links),
            _search_table(made),
            _limits_table(every),
        ],
        draw=lambda figure: map_drawing.draw(figure, maps),
        inches=(11.0, 8.0),
        drawn_source=(
            "SPPO simulated · peers emulated and simulated (bold), else a computed bound · assumed "
            "profiles · ratio: best peer's step over SPPO's"
        ),
    )


def verdicts(made: MapData, where: Sequence[Place]) -> list[PlaceVerdict]:
    """The verdicts of the places with a plan."""
    return [verdict_at(place, made) for place in where if made.plan(place) is not None]


def _link_places() -> list[Place]:
    changed = list(places.on_links())
    unchanged = dict.fromkeys(place.unchanged for place in changed)
    return [*unchanged, *changed]


def cell_words(verdict: PlaceVerdict) -> str:
    """ "0.97x native": the ratio and the best peer; the winner where there is no ratio."""
    if verdict.ratio is None:
        return WORDS[verdict.winner]
    peer = verdict.best_peer
    assert peer is not None
    at_most = "" if peer.label == "emulated" else "≥ "
    return f"{at_most}{verdict.ratio:.2f}x {peer.system}, {WORDS[verdict.winner]}"


def _verdict(rows: Sequence[PlaceVerdict], made: MapData) -> str:
    counts = Counter(verdict.winner for verdict in rows)
    parts = [f"{WORDS[winner]} {count}" for winner, count in counts.most_common()]
    return (
        f"On {places.HARDWARE[0]}, winners at {len(rows)} places: {', '.join(parts)}. "
        f"{_alone_words(rows)} Peers are emulated at "
        f"{len({search.place for search in made.searches})} places."
    )


def _alone_words(rows: Sequence[PlaceVerdict]) -> str:
    """From how many tokens a GPU on only SPPO runs, and up to how many GPUs it does."""
    alone = [verdict.place for verdict in rows if verdict.winner == "SPPO alone"]
    able = [verdict.place.gpus for verdict in rows if verdict.plan and verdict.plan.step_seconds]
    words = f"SPPO has plans for up to {max(able):,} GPUs." if able else "SPPO has no plan."
    if not alone:
        return words
    least = min(place.tokens // place.gpus for place in alone) // 1024
    count = len(alone)
    return f"Only SPPO runs at {count} of them, all with {least}K tokens a GPU or more. {words}"


def _notes(made: MapData) -> Iterator[str]:
    yield (
        "A ratio is the best peer's step over SPPO's, messages exposed: above 1 SPPO is faster. "
        "`≥` marks a bound: the true ratio is at least that."
    )
    yield (
        "`open`: a peer's bound is below SPPO's step, and no emulation says whether the peer "
        "reaches the bound. `peer`: an emulated peer is faster."
    )
    yield (
        "A bound counts the model's FLOPs at the profile's rates, idle time of a pipeline, the "
        "messages that the layout cannot do without, and attention that runs twice where its "
        "output does not fit. Everything else is left out. A peer with a bound may still run out "
        "of memory."
    )
    yield (
        f"Peers are emulated on {places.HARDWARE[0]}: the fastest settings of their grid, or the "
        "first of a few settings that fits. Counts do not depend on rates, so the same settings "
        "are timed on the other profiles. A few settings show that a peer is faster, not that none "
        "is."
    )
    yield (
        f"With one sequence a step SPPO fills 1,024 GPUs at most: {places.MODEL} has 32 heads and "
        "32 layers, so SP 32 x PP 32. Four replicas fill 4,096 GPUs with four sequences a step. "
        "At such places a peer may run: its bound is in the CSV."
    )
    yield f"Data: `{COMMITTED}`, made by `{data.COMMAND}`."
    lacking = [
        f"{system} at {place.cell}"
        for place in dict.fromkeys((*places.searched(), *places.tried()))
        for system in places.PEERS
        if made.search(place, system) is None
    ]
    if lacking:
        yield f"Not emulated yet: {', '.join(lacking)}. Their bounds stand in."


def _points(verdict: PlaceVerdict) -> Iterator[Point]:
    place, plan = verdict.place, verdict.plan
    assert plan is not None
    where = ", ".join(part for part in (place.cell, place.change) if part)
    share = None
    if plan.step_seconds is not None:
        share = kernel_limit_share(place.workload, plan.step_seconds, place.profile)
    yield Point(
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
    for peer in verdict.peers:
        for step in dict.fromkeys((peer, peer.least)):
            yield _peer_point(step, place, where)


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


def _map_table(hardware: str, rows: Sequence[PlaceVerdict]) -> Table:
    """A row a length, a column a number of tokens a GPU."""
    by_cell = {(row.place.seq, places.tokens_per_gpu(row.place)): row for row in rows}
    shares = [f"{share}K" for share in reversed(places.TOKENS_PER_GPU)]
    seqs = list(dict.fromkeys(row.place.seq for row in rows))
    body = [[seq, *(_cell(by_cell.get((seq, share))) for share in shares)] for seq in seqs]
    titles = ["length", *(f"{share} tokens a GPU" for share in shares)]
    return Table(heading=f"Who wins on {hardware}", titles=titles, rows=body)


def _cell(verdict: PlaceVerdict | None) -> str:
    return "" if verdict is None else f"{verdict.place.gpus:,} GPUs: {cell_words(verdict)}"


def _link_table(rows: Sequence[PlaceVerdict]) -> Table:
    body = [
        [
            row.place.cell,
            row.place.change or "as in the profile",
            "no plan"
            if row.plan is None or row.plan.step_seconds is None
            else f"{row.plan.step_seconds:.1f} s",
            "" if row.best_peer is None else f"{row.best_peer.seconds:.1f} s",
            "" if row.best_peer is None else f"{row.best_peer.system}, {row.best_peer.label}",
            "" if row.ratio is None else f"{row.ratio:.2f}x",
            "" if row.ratio_if_hidden is None else f"{row.ratio_if_hidden:.2f}x",
            WORDS[row.winner],
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
        how_words(search),
        "" if time is None else f"{time.step_seconds:.1f} s",
        "" if time is None else f"{time.step_seconds_if_hidden:.1f} s",
        "" if bound.seconds is None else f"{bound.seconds:.1f} s",
        format_bytes(max(peaks)) if peaks else "",
    ]


def how_words(search: MapSearch) -> str:
    """ "first of 2 tried, from models of 2, 3, 4 layers": how settings were found."""
    if search.how == "grid":
        lacking = f", {search.not_tried} not tried" if search.not_tried else ""
        return f"fastest of its grid ({search.trials} emulated{lacking})"
    layers = ", ".join(map(str, search.layers))
    depth = f", from models of {layers} layers" if layers else ""
    return f"{search.trials} of a few{depth}" if search.found else f"none of {search.trials}"


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
