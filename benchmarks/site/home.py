"""The first page, which answers three questions by charts, and the list page of each group."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from benchmarks.site.document import Document
from benchmarks.site.page import Block, Cell, Facts, Lines, Links, Page, Section, Table
from benchmarks.site.render import NAVIGATION

FASTER = "Who is faster under the same device limit?"
LONGER = "Who fits the longest sequence?"
REGRESSED = "Did a change make the suite slower?"

MOST_CHARTS = 4
"""Charts of an answer. All others stand on their own pages."""

LABELS = (
    "measured: a launch of real processes, with machine and commit",
    "emulated: a system's own code on fake tensors, at full scale",
    "simulated: a plan's schedule against a hardware profile",
    "computed: a formula, or the shapes of a model",
    "paper: a number read from the paper",
    "datasheet: a number printed by a maker",
)

LEADS = {
    "Runs": "The same training under every system. A number leads to the records of its launches.",
    "Studies": "Many launches, one question. A number leads to the values of its row.",
    "Paper": "The paper's figures and tables beside ours.",
    "Timelines": "One step of SPPO, measured and simulated, instruction by instruction.",
}
"""What a group of pages holds."""


def home_page(
    groups: Mapping[str, Sequence[Document]], history: Document, skipped: Sequence[str]
) -> Page:
    """The first page. groups: the documents of each group of pages. skipped: what is not shown."""
    sweeps = [each for each in groups["Studies"] if "/sweeps/" in each.href]
    longest = [each for each in groups["Studies"] if "/longest/" in each.href]
    lengths = _longest_emulated(groups["Paper"])
    sections = [
        Section(title=FASTER, anchor="faster", blocks=_answer([*groups["Runs"], *sweeps])),
        Section(title=LONGER, anchor="longer", blocks=_answer([*longest, *lengths])),
        Section(title=REGRESSED, anchor="slower", blocks=_history(history)),
        Section(title="What a label of a number means", blocks=(Lines(lines=LABELS),)),
    ]
    if skipped:
        sections.append(Section(title="Not shown", blocks=(Lines(lines=tuple(skipped)),)))
    return Page(
        path=NAVIGATION["Answers"],
        group="Answers",
        title="SPPO, Megatron-Core and DeepSpeed on the same long sequences",
        lead="Three questions, answered from the published records.",
        sections=tuple(sections),
    )


def _longest_emulated(documents: Sequence[Document]) -> list[Document]:
    """The emulated points of fig. 12. Without them its item, which draws the same points."""
    shown = [each for each in documents if "fig12" in each.href]
    return [each for each in shown if "/published-emulation/" in each.href] or shown


def _answer(documents: Sequence[Document]) -> tuple[Block, ...]:
    """The answer of each document, with a link to its page, and their charts."""
    if not documents:
        return (Lines(lines=("No published record answers this yet.",)),)
    shown = Facts(
        rows=tuple((each.title, Cell(text=each.summary, href=each.href)) for each in documents)
    )
    charts = [chart for each in documents for chart in each.charts][:MOST_CHARTS]
    return (shown, *charts)


def _history(history: Document) -> tuple[Block, ...]:
    link = Links(cells=(Cell(text=history.title, href=history.href),))
    return (Lines(lines=(history.summary,)), *history.charts[:MOST_CHARTS], link)


def list_page(group: str, documents: Sequence[Document]) -> Page:
    """The list of a group's documents."""
    rows = tuple(
        (Cell(text=each.title, href=each.href), Cell(text=each.summary)) for each in documents
    )
    block = Table(titles=("page", "what it says"), rows=rows)
    none = Lines(lines=("Nothing is published yet.",))
    return Page(
        path=NAVIGATION[group],
        group=group,
        title=group,
        lead=LEADS[group],
        sections=(Section(title="", blocks=(block if rows else none,)),),
    )
