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
    """A library's points at another length than the base workload's, in the order of their trials.

    First those whose emulated peak fits at this length, the fastest known first; where none fits,
    the one of the least peak. Then points without counts, whose launch decides. Then the leanest
    known one: a launch also enforces bytes that no emulation counts.
    """
    limit_bytes = place.workload.device_memory_bytes or math.inf
    free = known_grids.grid(system, place.base, None)
    able = _may_fit([point for point in grid if point.status is None], place, free)
    fastest_first = sorted(able, key=lambda point: free.seconds(point) or math.inf)
    peaks = _emulated(fastest_first, peak_of, limit_bytes)
    counted = {point.key: peak for point in able if (peak := peaks.get(point.key)) is not None}
    fitting = [point for point in fastest_first if counted.get(point.key, math.inf) <= limit_bytes]
    least = sorted((point for point in able if point.key in counted), key=lambda p: counted[p.key])
    others = [point for point in fastest_first if peaks.get(point.key, 0) is None]
    leanest = known_grids.leanest_first(able, free)[:1]
    ordered: dict[str, Configuration] = {}
    for points, words in (
        (fitting, FASTEST_FITTING),
        ([] if fitting else least[:1], LEAST_EMULATED),
        (others, UNCOUNTED),
        ([point for point in leanest if point.key not in counted], LEANEST_KNOWN),
    ):
        length = length_name(place.workload.sequence_tokens)
        for point in points:
            source = f"{words}, of {len(able)} settings at {length} tokens"
            source = "; ".join(filter(None, (source, point.grid)))
            ordered.setdefault(point.key, replace(point, grid=source))
    return Candidates(ordered=list(ordered.values()), peaks_bytes=counted)


FASTEST_FITTING = "among the fastest known whose emulated peak fits"
LEAST_EMULATED = "the least emulated peak, which does not fit"
UNCOUNTED = "without an emulated peak"
LEANEST_KNOWN = "the least known peak at another length"
"""Where the settings of a peer come from at another length than the base workload's."""


def _emulated(
    points: Sequence[Configuration], peak_of: PeakOf, limit_bytes: float
) -> dict[str, int | None]:
    """Peaks in bytes by key, until POINTS + SPARE_POINTS fit; None without counts."""
    peaks: dict[str, int | None] = {}
    fit = 0
    for point in points:
        if fit == POINTS + SPARE_POINTS:
            break
        peaks[point.key] = peak_bytes = peak_of(point)
        fit += peak_bytes is not None and peak_bytes <= limit_bytes
    return peaks


def _may_fit(points: list[Configuration], place: Place, free: Grid) -> list[Configuration]:
    """Without those whose known peak at the base length is above the limit, if longer is asked.

    The leanest known where that leaves none.
    """
    limit_bytes = place.workload.device_memory_bytes
    if limit_bytes is None or place.workload.sequence_tokens < place.base.sequence_tokens:
        return points
    leaner = [point for point in points if (free.peak_bytes(point) or 0) <= limit_bytes]
    return leaner or known_grids.leanest_first(points, free)[:1]
