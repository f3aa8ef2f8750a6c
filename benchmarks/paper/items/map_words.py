"""The words of the map's page: cells, verdict and notes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from benchmarks.paper.map import data, places
from benchmarks.paper.map.data import COMMITTED, MapData, MapSearch
from benchmarks.paper.map.verdict import PlaceVerdict
from benchmarks.reporting import style
from sppo.config.models import MODELS

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

OUTCOMES = {
    "SPPO alone": "{} where only SPPO runs",
    "SPPO": "{} won by SPPO",
    "a peer": "{} won by an emulated peer",
    "SPPO cannot": "{} where SPPO cannot run",
    "open": "{} open",
    "nobody": "{} where nobody runs",
    "not planned": "{} not planned",
}
"""Of a count of places."""

ORDINALS = ("first", "second", "third", "fourth")


def cell_words(verdict: PlaceVerdict) -> str:
    """ "≤ 0.97x native, peer; hidden ≤ 0.97x"; the winner where there is no ratio."""
    if verdict.ratio is None:
        return WORDS[verdict.winner]
    hidden = ratio_words(verdict.ratio_if_hidden, verdict.side_if_hidden)
    return f"{named_ratio(verdict)}, {WORDS[verdict.winner]}" + (hidden and f"; hidden {hidden}")


def named_ratio(verdict: PlaceVerdict) -> str:
    """ "≤ 0.97x native": the ratio and the best peer; "" without a ratio."""
    if verdict.best_peer is None:
        return ""
    words = ratio_words(verdict.ratio, verdict.side)
    return words and f"{words} {verdict.best_peer.system}"


def ratio_words(ratio: float | None, side: str) -> str:
    """ "≥ 1.03x"; as many digits as tell a ratio from 1, and "" without a ratio."""
    if ratio is None:
        return ""
    words = [f"{ratio:.{digits}f}" for digits in (2, 3, 4)]
    shown = next((each for each in words if float(each) != 1), words[0])
    return f"{side}{shown}x"


def verdict_words(rows: Sequence[PlaceVerdict], made: MapData) -> str:
    """Who wins at how many places of HARDWARE[0], and how many places have an emulated peer."""
    counts = Counter(verdict.winner for verdict in rows)
    parts = [OUTCOMES[winner].format(count) for winner, count in counts.most_common()]
    emulated = [
        f"{style.look(system).name} at {_emulated(made, system) or 'none'}"
        for system in places.PEERS
    ]
    return (
        f"{len(rows)} places on {places.HARDWARE[0]}: {_listed(parts)}. {_alone_words(rows)} "
        f"Emulated in this map: {_listed(emulated)}."
    )


def _emulated(made: MapData, system: str) -> int:
    """Places where settings of a peer fit and were emulated."""
    return sum(each.system == system and each.found is not None for each in made.searches)


def _listed(parts: Sequence[str]) -> str:
    """ "a, b and c"."""
    return " and ".join(filter(None, (", ".join(parts[:-1]), parts[-1])))


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


def notes(
    made: MapData, cells: Sequence[PlaceVerdict], links: Sequence[PlaceVerdict]
) -> Iterator[str]:
    """What the words of the page mean, and what is missing."""
    yield (
        "A ratio is the best peer's step over SPPO's, messages exposed: above 1 SPPO is faster. "
        "All steps follow the rules of emulated time: messages take their time one after the "
        "other, or none where hidden. Hidden, SPPO keeps its plan, and its copies take no time "
        "either."
    )
    yield (
        "`≤` marks an emulated peer whose grid was not searched whole, or not on this hardware: "
        "the ratio is at most that, and other peers may be faster. `≥` marks a computed bound: the "
        "ratio is at least that."
    )
    yield (
        "`SPPO`: the exposed step is below the bounds of all peers without messages. `peer`: an "
        "emulated peer is faster. `open`: neither; no emulation says whether a peer reaches its "
        "bound."
    )
    yield (
        "A bound counts the model's FLOPs at the profile's rates, and the idle time of a pipeline. "
        "The bound adds the messages that the layout cannot do without. Attention counts twice "
        "where its output does not fit. Everything else is left out, also the memory of logits: a "
        "user may compute the loss in tiles. A peer with a bound may still run out of memory."
    )
    yield (
        f"Peers are emulated on {places.HARDWARE[0]}: the answer of a committed search, or the "
        "first of a few settings that fits. The few settings are a small part of a grid: "
        "PyTorch native without TP, DeepSpeed with ZeRO-3, Megatron-Core with full recomputation. "
        "Counts do not depend on rates, so the same settings are timed on the other profiles. A "
        "few settings show that a peer is faster, not that none is."
    )
    yield _wide_stages_words()
    yield f"Data: `{COMMITTED}`, made by `{data.COMMAND}`."
    missing, rows = (sum(each.plan is None for each in group) for group in (cells, links))
    if missing or rows:
        yield (
            f"Not planned yet: {missing} of {len(cells)} cells, {rows} of {len(links)} rows of "
            f"other links. SPPO may run there. `{data.COMMAND}` plans them."
        )
    yield from _lacking_words(made)


def _wide_stages_words() -> str:
    model = MODELS[places.MODEL]
    return (
        f"{model.name} has {model.heads} heads. Of a stage with more ranks than heads several have "
        "the same ones: they gather K and V (docs/parallelism.md)."
    )


def _lacking_words(made: MapData) -> Iterator[str]:
    """A sentence a peer that is not emulated at all places where it is meant to be."""
    asked = list(dict.fromkeys((*places.searched(), *places.tried())))
    for system in places.PEERS:
        lacking = [place.cell for place in asked if made.search(place, system) is None]
        name = style.look(system).name
        if len(lacking) == len(asked):
            yield (
                f"{name} is emulated nowhere in this map: its bounds stand in. Single points are "
                "in docs/peers.md."
            )
        elif lacking:
            yield (
                f"{name} is not emulated in this map at {len(lacking)} of {len(asked)} places that "
                f"`{data.COMMAND}` tries. Its bounds stand there."
            )


def how_words(search: MapSearch) -> str:
    """How settings were found.

    "fastest of 10 tried, 23 not tried", "the third tried, from models of 2, 3, 4 layers".
    """
    if search.how == "grid":
        if search.is_whole:
            return f"fastest of its grid ({search.trials} emulated)"
        lacking = f", {search.not_tried} not tried" if search.not_tried else ""
        broken = f", {search.unanswered}" if search.unanswered else ""
        return f"fastest of {search.trials} tried{lacking}{broken}"
    if search.found is None:
        return f"none of {search.trials} tried"
    if search.file:
        return f"the answer of a committed search ({search.trials} emulated)"
    layers = ", ".join(map(str, search.layers))
    depth = f", from models of {layers} layers" if layers else ""
    return f"the {ORDINALS[search.trials - 1]} tried{depth}"
