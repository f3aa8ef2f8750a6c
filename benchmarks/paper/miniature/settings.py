"""The rows of a place and their settings: SPPO's plans, and the peers' points that fit."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from benchmarks.launch.options import Options
from benchmarks.launch.progress import Display
from benchmarks.launch.recording import Inputs
from benchmarks.paper.miniature.places import Place, counts
from benchmarks.paper.offload_ablation import ADAPTIVE, FULL, MSP, PAPER_VIRTUAL_STAGES, Variant
from benchmarks.rows import candidates, known_grids
from benchmarks.rows.assign import assign, grid_assignments
from benchmarks.rows.candidates import Candidates
from benchmarks.rows.known_grids import NO_GRID
from benchmarks.rows.row import Configuration, Row, find
from benchmarks.studies.ablation import planned_row
from benchmarks.studies.sweep import fitting_points, refused_grid
from sppo.config.workload import Workload
from sppo.planner.options import SolverOptions

SYSTEMS = ("deepspeed", "megatron", "native", "sppo")
"""Systems of fig. 10 and 12; megatron has a row in SPPO's layout too."""

SAME_LAYOUT, TUNED = "megatron-same-layout", "megatron-tuned"
"""Slugs of the rows with which fig. 11 compares."""

POINTS = 2
"""Settings that are measured of a library without a measured grid; the fastest goes on."""

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
    ordered = candidates_at(row.system, place, grid)
    known[row.system] = ordered
    points = fitting_points(row, ordered, POINTS, inputs, options, display)
    return points or [refused_grid(row, grid)]


def candidates_at(system: str, place: Place, grid: list[Configuration]) -> Candidates:
    """A library's points at the length of a place, in the order in which they are tried.

    Known times and peaks are those of the base workload's length. At another length they give the
    order alone: every point is confirmed by an enforced launch. A peak grows with the length, but
    no faster. So a point is left out where even this least peak does not fit.
    """
    workload, base = place.workload, place.base
    if workload.sequence_tokens == base.sequence_tokens:
        return candidates.of_system(system, workload, grid, base.sequences_per_step)
    shorter = max(1.0, base.sequence_tokens / workload.sequence_tokens)
    limit = workload.device_memory_bytes
    free = known_grids.grid(system, base, None)
    return candidates.candidates(
        grid,
        NO_GRID,
        free,
        limit_bytes=None if limit is None else int(limit * shorter),
        own=True,
    )
