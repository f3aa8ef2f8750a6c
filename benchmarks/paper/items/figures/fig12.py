"""Fig. 12: the longest sequence of gpt-7b by GPUs, from a committed emulation."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

from benchmarks.paper import boundaries_figure, reported
from benchmarks.paper.boundaries import LONGEST_AT_MOST_FACTOR
from benchmarks.paper.items import published
from benchmarks.paper.items.item import Comparison, Item, NotCommitted, Point, Table
from benchmarks.paper.items.miniature import fig12 as miniature
from benchmarks.paper.items.miniature.panel import with_miniature
from benchmarks.paper.items.profile import testbed
from benchmarks.paper.verdicts import LongestVerdict, PaperPoints
from sppo.config.sizes import length_name

SEQUENCES = 1

MILLION = 1024**2

MEMORIES = ("device memory", "host memory")
"""Memories by the words with which a refusal names them."""


def make() -> Item:
    """The item. Raises NotCommitted without a committed emulation; OSError, RecordError."""
    emulated = published.read("12", SEQUENCES)
    if emulated is None:
        raise NotCommitted(published.missing("12", SEQUENCES))
    rows = emulated.longest
    comparisons = [_comparison(row) for row in rows if row.paper_tokens]
    longer = sum((row.difference or 0) >= 0 for row in comparisons)
    points = [point for row in rows for point in _points(row, emulated)]
    item = Item(
        key="fig12",
        title=f"Fig. 12: longest sequence of {reported.LARGE_MODEL}, one sequence a step",
        compares="longest sequence of each system on 32, 64 and 128 GPUs",
        points=[*points, *_paper_points()],
        comparisons=comparisons,
        agreement=f"{longer} of {len(comparisons)} at least as long as in the paper",
        verdict=_verdict(rows),
        notes=[
            f"A search ends at {LONGEST_AT_MOST_FACTOR} times the paper's SPPO: an arrow, and "
            "longer sequences may fit.",
            "What ends a search: the memory that refuses the next longer length, another refusal "
            "in its own words, or the cap, with the fuller memory.",
        ],
        tables=[_table(rows)],
        draw=lambda figure: boundaries_figure.draw_longest(figure.add_subplot(), rows),
        inches=(11.0, 4.9),
        drawn_source=(
            "emulated · memory of the a100-80g profile · hollow: the paper · arrow: a capped search"
        ),
    )
    return with_miniature(item, "12", partial(miniature.panel, emulated=rows))


def _verdict(rows: Sequence[LongestVerdict]) -> str:
    """Who goes farthest, and how many rows go farther than in the paper or run in neither."""
    gpus = list(dict.fromkeys(row.gpus for row in rows))
    farthest = sum(
        max((row for row in rows if row.gpus == each), key=lambda row: row.longest_tokens).system
        == "sppo"
        for each in gpus
    )
    farther = sum(row.longest_tokens > (row.paper_tokens or 0) for row in rows)
    neither = sum(not row.longest_tokens and row.paper_tokens == 0 for row in rows)
    capped = sum(is_capped(row) for row in rows)
    return (
        f"SPPO goes farthest on {farthest} of {len(gpus)} numbers of GPUs. {farther} of "
        f"{len(rows)} rows go farther than in the paper, {neither} run neither here nor there. "
        f"{capped} searches ended at their cap."
    )


def is_capped(row: LongestVerdict) -> bool:
    """Whether the search ended at its cap, so that longer sequences may fit."""
    return bool(row.longest_tokens) and not row.beyond


def binding(row: LongestVerdict) -> str:
    """What ends the search, in words: a memory, the cap, or a refusal for another reason."""
    if not row.longest_tokens:
        return row.beyond
    if row.beyond:
        return next((name for name in MEMORIES if name in row.beyond), f"no memory: {row.beyond}")
    profile = testbed()
    shares = {
        "device": max(row.peak_device_bytes.values()) / profile.usable_device_bytes,
        "host": max(row.peak_host_bytes.values()) / profile.host_memory_bytes_per_rank,
    }
    fuller = max(shares, key=lambda name: shares[name])
    return f"cap of the search; {fuller} memory {shares[fuller]:.1%} full"


def _comparison(row: LongestVerdict) -> Comparison:
    assert row.paper_tokens
    return Comparison(
        what=f"{row.gpus} GPUs: {row.rule_name}",
        ours=row.longest_tokens / MILLION,
        ours_label="emulated",
        paper=row.paper_tokens / MILLION,
        form="{:.2f}M",
        cause=binding(row),
    )


def _points(row: LongestVerdict, emulated: PaperPoints) -> Iterator[Point]:
    tokens = row.longest_tokens
    yield Point(
        series=row.rule_name,
        place=f"{row.gpus} GPUs",
        quantity="longest sequence",
        unit="tokens",
        value=tokens or None,
        outcome="at least: the search was capped" if is_capped(row) else row.beyond,
        label="emulated",
        source=published.source("12", SEQUENCES, emulated),
        settings=f"{row.settings_text}; ends by: {binding(row)}",
    )


def _paper_points() -> Iterator[Point]:
    for system in ("sppo", "megatron_tuned", "deepspeed"):
        for gpus in reported.longest_gpus():
            tokens = reported.longest_tokens(system, reported.LARGE_MODEL, gpus)
            yield Point(
                series=f"the paper, {system}",
                place=f"{gpus} GPUs",
                quantity="longest sequence",
                unit="tokens",
                value=tokens or None,
                outcome="" if tokens else "cannot run",
                label="paper",
                source="arXiv 2503.10377, fig. 12",
            )


def _table(rows: list[LongestVerdict]) -> Table:
    cells = [
        [
            str(row.gpus),
            row.rule_name,
            row.settings_text,
            f"{'≥ ' if is_capped(row) else ''}{length_name(row.longest_tokens)}"
            if row.longest_tokens
            else "cannot run",
            binding(row),
        ]
        for row in rows
    ]
    titles = ["GPUs", "row", "layout", "longest", "what ends the search"]
    return Table(heading="Longest sequences", titles=titles, rows=cells, align="rllrl")
