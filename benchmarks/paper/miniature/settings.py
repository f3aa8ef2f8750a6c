"""The rows of a place and their settings: SPPO's plans, and the peers' points that fit."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace

from benchmarks.launch.options import Options
from benchmarks.launch.progress import Display
from benchmarks.launch.recording import Inputs
from benchmarks.paper.miniature.emulated_peaks import PeakOf, emulated_peaks
from benchmarks.paper.miniature.places import Place, counts
from benchmarks.paper.offload_ablation import ADAPTIVE, FULL, MSP, PAPER_VIRTUAL_STAGES, Variant
from benchmarks.rows import candidates, known_grids
from benchmarks.rows.assign import assign, grid_assignments
from benchmarks.rows.candidates import Candidates
from benchmarks.rows.known_grids import Grid
from benchmarks.rows.row import Configuration, Row, find
from benchmarks.studies.ablation import planned_row
from benchmarks.studies.sweep import fitting_points, refused_grid
from sppo.config.sizes import length_name
from sppo.config.workload import Workload
from sppo.planner.options import SolverOptions

SYSTEMS = ("deepspeed", "megatron", "native", "sppo")
"""Systems of fig. 10 and 12; megatron has a row in SPPO's layout too."""

SAME_LAYOUT, TUNED = "megatron-same-layout", "megatron-tuned"
"""Slugs of the rows with which fig. 11 compares."""

POINTS = 2
"""Settings that are measured of a library without a measured grid; the fastest goes on."""

SPARE_POINTS = 2
"""Further settings whose emulated peak fits, for those that an enforced launch refuses."""

SUBSEQUENCES = 8
"""Fig. 11: N, the same for every variant."""

NO_OFFLOAD = Variant(name="no offload", policy="no-offload")
AUTO = Variant(name="further: auto", policy="auto")
VARIANTS = (NO_OFFLOAD, FULL, ADAPTIVE, MSP, AUTO)
"""Fig. 11: the paper's variants, with no offload before them and policy `auto` behind."""


def rows() -> list[Row]:
    """The rows of fig. 10 and 12, in the table's order."""
    return list(find(SYSTEMS))


def count_row(count: int) -> str:
    """The row of a value of N in fig. 7."""
    return f"SPPO N {count}"


def by_count(workload: Workload) -> list[Configuration]:
    """Fig. 7: a row for each N, in subsequences of equal length, with every tensor kept."""
    options = replace(_one_chunk(workload), cut="equal", policy=NO_OFFLOAD.policy)
    return [
        planned_row(count_row(count), workload, replace(options, subsequences=count))[0]
        for count in counts(workload)
    ]


def variant_row(variant: Variant) -> str:
    """The row of a variant in fig. 11."""
    return f"SPPO, {variant.name}"


def by_variant(workload: Workload) -> list[Configuration]:
    """Fig. 11: Megatron's rows, then SPPO's variants in one layout."""
    fixed = replace(_one_chunk(workload), subsequences=SUBSEQUENCES)
    return [
        *(assign(row, workload) for row in find((SAME_LAYOUT, TUNED))),
        *(
            planned_row(
                variant_row(variant),
                workload,
                replace(fixed, policy=variant.policy, msp=variant.msp),
            )[0]
            for variant in VARIANTS
        ),
    ]


def _one_chunk(workload: Workload) -> SolverOptions:
    """The paper's pipeline: over all ranks, one chunk a stage, K and V on the device, no MSP."""
    return SolverOptions(
        pipeline_parallel=workload.cluster.ranks,
        sequence_parallel=1,
        virtual_stages=PAPER_VIRTUAL_STAGES,
        kv_offload=False,
        head_alone=False,
        msp=False,
    )


def by_system(
    place: Place,
    inputs: Inputs,
    options: Options,
    display: Display,
    known: dict[str, Candidates],
) -> Iterator[Configuration]:
    """Fig. 10: the rows of all systems at a length; of a tuned row the points that fit.

    known: gets the candidates of each tuned row's system.
    """
    for row in rows():
        yield from _of_row(row, place, inputs, options, display, known)


def _of_row(
    row: Row,
    place: Place,
    inputs: Inputs,
    options: Options,
    display: Display,
    known: dict[str, Candidates],
) -> list[Configuration]:
    if row.choosing != "tuned":
        return [assign(row, place.workload)]
    try:
        grid = grid_assignments(row.system, place.workload)
    except ImportError:
        return [assign(row, place.workload)]  # refused, in the library's words
    if place.workload.sequence_tokens == place.base.sequence_tokens:
        own = place.base.sequences_per_step
        ordered = candidates.of_system(row.system, place.workload, grid, own)
    else:
        with emulated_peaks(row.system, place.workload, display) as peak_of:
            ordered = candidates_at(row.system, place, grid, peak_of)
    known[row.system] = ordered
    points = fitting_points(row, ordered, POINTS, inputs, options, display)
    return points or [refused_grid(row, grid)]


def candidates_at(
    system: str, place: Place, grid: Sequence[Configuration], peak_of: PeakOf
) -> Candidates:
    """A library's points at another length than the base workload's, the fastest known first.

    A point is a candidate where its emulated peak fits at this length. Emulation ends with
    POINTS + SPARE_POINTS candidates. Without any, the point of the least emulated peak is the only
    one: its launch is the result.
    """
    limit_bytes = place.workload.device_memory_bytes
    free = known_grids.grid(system, place.base, None)
    able = _may_fit([point for point in grid if point.status is None], place, free)
    peaks: dict[str, int] = {}
    fitting: list[Configuration] = []
    for point in sorted(able, key=lambda point: free.seconds(point) or math.inf):
        if len(fitting) == POINTS + SPARE_POINTS:
            break
        peak_bytes = peak_of(point)
        if peak_bytes is None:
            continue
        peaks[point.key] = peak_bytes
        if limit_bytes is None or peak_bytes <= limit_bytes:
            fitting.append(point)
    words = f"{FASTEST_FITTING}, of {len(able)}"
    if not fitting:
        words = f"{LEANEST}, of {len(peaks)}"
        counted = [point for point in able if point.key in peaks]
        fitting = sorted(counted, key=lambda point: peaks[point.key])[:1]
    source = f"{words} settings at {length_name(place.workload.sequence_tokens)} tokens"
    sourced = [
        replace(point, grid="; ".join(filter(None, (source, point.grid)))) for point in fitting
    ]
    return Candidates(ordered=sourced, peaks_bytes=peaks)


FASTEST_FITTING = "among the fastest known whose emulated peak fits"
LEANEST = "the least emulated peak, since none fits"
"""Where the settings of a peer come from at another length than the base workload's."""


def _may_fit(points: list[Configuration], place: Place, free: Grid) -> list[Configuration]:
    """Without those whose known peak at the base length is above the limit, if longer is asked.

    The leanest known where that leaves none.
    """
    limit_bytes = place.workload.device_memory_bytes
    if limit_bytes is None or place.workload.sequence_tokens < place.base.sequence_tokens:
        return points
    leaner = [point for point in points if (free.peak_bytes(point) or 0) <= limit_bytes]
    return leaner or known_grids.leanest_first(points, free)[:1]
