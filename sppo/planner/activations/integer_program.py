"""The decisions of one stage as an integer program: the least added time that memory allows.

Variables, by chunk, subsequence and saved tensor: the layers whose tensor is offloaded (integer),
and whether all of them are recomputed (binary). At every compute of the stage, saved bytes less
offloaded bytes fit the device with the rest of the memory model. The host tier has a limit of its
own. Overlapped copies cost only their excess over the compute that hides them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from itertools import chain, product
from typing import NamedTuple

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import coo_array

from sppo.config.errors import LayoutDoesNotFit
from sppo.config.sizes import slot_bytes
from sppo.memory_model.decisions import KEEP, Decision, StageDecisions
from sppo.memory_model.temporary_peaks import linear_temporary_peaks
from sppo.planner.activations.policies import recompute_levels, uniform
from sppo.planner.activations.stage_problem import StageProblem
from sppo.schedule.order import residency

TIME_LIMIT_SECONDS = 10.0
"""Of one stage's program; then the best decisions so far are taken."""

MIB = 1024.0**2
MILLISECOND = 1e6


class _Choice(NamedTuple):
    """A saved tensor of one subsequence in one chunk, and the columns of its variables."""

    name: str
    size_bytes: int
    offload: int | None
    recompute: int | None


_Choices = Mapping[tuple[int, int], list[_Choice]]
"""By (chunk, subsequence)."""


class _Program:
    """Rows, columns and costs of the program during its construction, in MiB and ms."""

    def __init__(self) -> None:
        self.columns: list[tuple[float, float, int]] = []
        self.cells: list[tuple[int, int, float]] = []
        self.most: list[float] = []

    def column(self, cost: float, upper: float, *, integer: bool) -> int:
        """The number of a new variable between 0 and `upper`, and its cost per unit."""
        self.columns.append((cost, upper, int(integer)))
        return len(self.columns) - 1

    def row(self, cells: dict[int, float], most: float) -> None:
        """sum of cells <= most."""
        number = len(self.most)
        self.cells += [(number, column, value) for column, value in cells.items()]
        self.most.append(most)

    def solve(self) -> np.ndarray | None:
        """Values of all columns, or None if nothing fits."""
        if not self.columns:
            return np.zeros(0)
        costs, upper, integer = zip(*self.columns, strict=True)
        rows, columns, values = zip(*self.cells, strict=True)
        matrix = coo_array((values, (rows, columns)), shape=(len(self.most), len(costs)))
        result = milp(
            costs,
            integrality=integer,
            bounds=Bounds(0, upper),
            constraints=LinearConstraint(matrix.tocsr(), -np.inf, self.most),
            options={"time_limit": TIME_LIMIT_SECONDS, "mip_rel_gap": 1e-4},
        )
        solution: np.ndarray | None = result.x
        return solution


def cheapest_decisions(problem: StageProblem) -> StageDecisions:
    """The decisions of least added time. Raises LayoutDoesNotFit if none fits."""
    keep = uniform(problem)
    if problem.excess_bytes(problem.memory(keep)) <= 0:
        return keep
    offloaded = [uniform(problem, level, 1.0) for level in recompute_levels(problem)]
    leanest = min((problem.memory(decisions) for decisions in offloaded), key=problem.excess_bytes)
    problem.require_device_fit(leanest)
    program = _Program()
    choices = _choices(problem, program)
    temporary = _temporary_columns(problem, program, choices)
    _memory_rows(problem, program, choices, temporary)
    _host_row(problem, program, choices)
    if problem.profile.overlapped_copies:
        _excess_rows(problem, program, choices)
    values = program.solve()
    if values is None:
        raise LayoutDoesNotFit(max(1, problem.untracked.charged), "device and host memory together")
    return _decisions(problem, choices, values)


def _choices(problem: StageProblem, program: _Program) -> _Choices:
    choices: defaultdict[tuple[int, int], list[_Choice]] = defaultdict(list)
    profile, last = problem.profile, len(problem.lengths) - 1
    lean = problem.block.recompute_lean
    per_byte = 1 / profile.d2h_bytes_per_second + 1 / profile.h2d_bytes_per_second
    for part, shape in enumerate(problem.shapes):
        layers = len(shape.layers)
        for index, unit in product(range(last + 1), shape.saved_tensors.values()):
            size = shape.saved_tensor_bytes(unit, problem.lengths[index])
            copies = shape.copies[unit.name]
            if copies == 0:
                continue
            offload = recompute = None
            if unit in shape.offloadable and index < last:
                cost = 0.0 if profile.overlapped_copies else size * per_byte * 1e3
                offload = program.column(cost, copies, integer=True)
            if unit.name in lean:
                spent = problem.recompute_ns(part, index, (unit.name,))
                recompute = program.column(spent / MILLISECOND, 1, integer=True)
            if offload is not None and recompute is not None:
                program.row({offload: 1, recompute: layers}, layers)
            if offload is not None or recompute is not None:
                choice = _Choice(unit.name, size, offload, recompute)
                choices[part, index].append(choice)
    return choices


def _temporary_columns(
    problem: StageProblem, program: _Program, choices: _Choices
) -> dict[tuple[int, int, bool], int]:
    """By chunk, subsequence and direction: a column no less than the compute's temporary peak.

    There is one row for each step of the compute, in which every recomputed tensor counts.
    """
    columns = {}
    for part, kind in enumerate(problem.kinds[: len(problem.shapes)]):
        for (index, tokens), forward in product(enumerate(problem.tokens[part]), (True, False)):
            column = columns[part, index, forward] = program.column(0.0, np.inf, integer=False)
            for moment, added in linear_temporary_peaks(kind, forward):
                base = problem.largest_bytes(part, index, (moment,))
                if base is not None:
                    cells = {column: -1.0}
                    for choice in choices.get((part, index), ()):
                        if choice.recompute is not None:
                            size = added[choice.name] * tokens / kind.shards
                            cells[choice.recompute] = size / MIB
                    program.row(cells, -base / MIB)
    return columns


def _memory_rows(
    problem: StageProblem,
    program: _Program,
    choices: _Choices,
    temporary: dict[tuple[int, int, bool], int],
) -> None:
    """At every compute: saved bytes, less recomputed, less offloaded, within the budget."""
    fixed = problem.fixed_bytes(problem.memory(uniform(problem))) + problem.untracked.charged
    assert problem.workload.device_memory_bytes is not None
    cells: defaultdict[int, float] = defaultdict(float)
    kept = 0.0
    overlapped = problem.profile.overlapped_copies
    rows = residency(problem.computes, overlapped=overlapped)
    for compute, messages, changes in zip(
        problem.computes, problem.live_bytes.messages, rows, strict=True
    ):
        for change in changes:
            part, index = change.virtual, change.subsequence
            layers = len(problem.shapes[part].layers)
            kept += change.kept * problem.kept_bytes(part, index, KEEP) / MIB
            for choice in choices.get((part, index), ()):
                size = choice.size_bytes / MIB
                if choice.recompute is not None and change.kept:
                    cells[choice.recompute] -= change.kept * layers * size
                if choice.offload is not None and change.away:
                    cells[choice.offload] -= change.away * size
        column = temporary[compute.virtual, compute.subsequence, compute.forward]
        budget = (problem.workload.device_memory_bytes - fixed - messages) / MIB
        program.row({**cells, column: 1.0}, budget - kept)


def _host_row(problem: StageProblem, program: _Program, choices: _Choices) -> None:
    limit = problem.workload.host_memory_bytes
    cells = {
        choice.offload: slot_bytes(choice.size_bytes) / MIB
        for choice in chain.from_iterable(choices.values())
        if choice.offload is not None
    }
    if limit is not None and cells:
        hosted = problem.memory(uniform(problem)).kv_host
        program.row(cells, (limit - hosted) / MIB)


def _excess_rows(problem: StageProblem, program: _Program, choices: _Choices) -> None:
    """A column for the excess of each subsequence's copies over the compute that hides them."""
    profile = problem.profile
    for (part, index), here in choices.items():
        sizes = {choice.offload: choice.size_bytes for choice in here if choice.offload is not None}
        if not sizes:
            continue
        following = problem.costs[part][index + 1]
        for rate, hidden in (
            (profile.d2h_bytes_per_second, following.forward_ns),
            (profile.h2d_bytes_per_second, following.backward_ns),
        ):
            excess = program.column(1.0, np.inf, integer=False)
            times = {column: size / rate * 1e3 for column, size in sizes.items()}
            program.row({**times, excess: -1.0}, hidden / MILLISECOND)


def _decisions(problem: StageProblem, choices: _Choices, values: np.ndarray) -> StageDecisions:
    rows = [[KEEP] * len(problem.lengths) for _ in problem.shapes]
    for (part, index), here in choices.items():
        layers = {
            choice.name: round(values[choice.offload])
            for choice in here
            if choice.offload is not None
        }
        rows[part][index] = Decision(
            offload=tuple((name, n) for name, n in layers.items() if n > 0),
            recompute=tuple(
                choice.name
                for choice in here
                if choice.recompute is not None and round(values[choice.recompute])
            ),
        )
    return rows
