"""Timelines of a run: SPPO's measured and simulated step, as charts and Chrome traces."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.file_names import printable
from benchmarks.records import provenance, store
from benchmarks.records import timeline as timelines
from benchmarks.records.record import Record
from benchmarks.records.timeline import Event, span_ns
from benchmarks.reporting.chrome_trace import chrome_trace
from benchmarks.site.charts import timeline
from benchmarks.site.document import Document, files_in
from benchmarks.site.page import Cell, Chart, Lines, Links, Page, Section, Trace
from benchmarks.site.sources.runs import Run
from sppo.config.hardware import committed_profiles, load_hardware

GROUP = "Timelines"

TIMELINES = "timeline-*.json"

PERFETTO = "https://ui.perfetto.dev"

MOST_DRAWN = 4_000
"""Instructions of a step that a browser draws at once."""

MOST_EVENTS = 50_000
"""Instructions of a step that a page holds."""

HOW = (
    "Both steps begin at their own first instruction. A trace opens in Perfetto: "
    "by the button, or as a file at the address below."
)


def timed_launches(run: Run, root: Path) -> list[tuple[Path, Record]]:
    """The launches of the run with timelines, by folder.

    root: as for `files_in`. A launch with a timeline outside it is left out.
    """
    launches = []
    for folder, record in sorted(run.launches, key=lambda launch: launch[0]):
        inside = files_in(folder, TIMELINES, root=root)
        if inside and len(inside) == len(list(folder.glob(TIMELINES))):
            launches.append((folder, record))
    return launches


def timeline_document(run: Run, launches: Sequence[tuple[Path, Record]]) -> Document:
    """The page of a run's timelines, and the files of the traces. Raises ValueError or OSError.

    launches: those with timelines, each with its folder. The step of a plan on hardware
    without a committed profile is not simulated.
    """
    measured = timelines.measured_in(run.folder, launches)
    plan, record = measured.plan, measured.record
    source = f"measured, launch {record.launch}, on {provenance.measured_on(record)}"
    steps = [_Step(label="measured", timelines=measured.timelines, source=source)]
    name = record.workload.cluster.hardware
    if name in committed_profiles():
        _check_size(run, 2 * plan.subsequences * plan.pipeline_parallel * plan.virtual_stages)
        profile = load_hardware(name)
        simulated = timelines.simulated(plan, profile)
        source = f"simulated from the {profile.kind} profile {profile.name}"
        width = plan.sequence_parallel
        steps.append(_Step(label="simulated", timelines=simulated, source=source, width=width))
    for step in steps:
        _check_size(run, sum(map(len, step.timelines)))
    title = printable(run.folder.name)
    links = (Cell(text=f"The run {title}", href=run.href), Cell(text=PERFETTO, href=PERFETTO))
    page = Page(
        path=f"timelines/{run.name}/index.html",
        group=GROUP,
        title=f"{title}: one step of SPPO, instruction by instruction",
        lead=HOW,
        sections=(
            *(_section(run, step) for step in steps),
            Section(title="", blocks=(Links(cells=links),)),
        ),
    )
    return Document(
        title=title,
        href=page.path,
        summary=f"The last step of SPPO, {' and '.join(step.label for step in steps)}.",
        pages=(page,),
        files={_file(run, step): store.to_json(_trace(step)) for step in steps},
    )


@dataclass(frozen=True, kw_only=True)
class _Step:
    """A step's timelines. width: ranks of a stage, of which the first has the timeline."""

    label: str
    timelines: Sequence[Sequence[Event]]
    source: str
    width: int = 1


def _check_size(run: Run, events: int) -> None:
    if events > MOST_EVENTS:
        raise ValueError(f"{run.folder}: a step of more than {MOST_EVENTS:,} instructions")


def _file(run: Run, step: _Step) -> str:
    return f"timelines/{run.name}/{step.label}.json"


def _section(run: Run, step: _Step) -> Section:
    start_ns, end_ns = span_ns(step.timelines)
    title = f"The {step.label} step: {(end_ns - start_ns) / 1e9:.3f} s"
    link = f"The trace of the {step.label} step"
    trace = Trace(title=link, path=_file(run, step), events=_trace(step))
    return Section(title=step.label.capitalize(), blocks=(_drawn(step, title), trace))


def _drawn(step: _Step, title: str) -> Chart | Lines:
    count = sum(map(len, step.timelines))
    if count > MOST_DRAWN:
        return Lines(lines=(f"{title}, {step.source}: {count:,} instructions, not drawn here.",))
    return timeline(step.timelines, title=title, source=step.source)


def _trace(step: _Step) -> dict[str, Any]:
    """One trace of all ranks."""
    origin_ns, _ = span_ns(step.timelines)
    ranks = len(step.timelines) * step.width
    traces = [
        chrome_trace(
            events, rank=rank * step.width, ranks=ranks, label=step.label, origin_ns=origin_ns
        )
        for rank, events in enumerate(step.timelines)
    ]
    whole = dict(traces[0])
    whole["traceEvents"] = [event for trace in traces for event in trace["traceEvents"]]
    whole["distributedInfo"] = {"rank": 0, "world_size": ranks}
    return whole
