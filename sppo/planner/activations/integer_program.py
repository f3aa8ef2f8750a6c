"""The decisions of one stage as an integer program: the least added time that memory allows.

Variables, by part, subsequence and unit: layers whose tensor travels (integer), and whether the
unit is made again in all of them (binary). At every compute of the stage what is kept, less what
has left, must fit beside the rest of the memory model; the host tier has its own limit. Where
copies overlap, only their excess over the compute they hide under costs time.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import coo_array

from sppo.config.errors import Short
from sppo.config.sizes import slot_bytes
from sppo.cost_model.times import recompute_ns
from sppo.memory_model.stage_memory import KEEP, Decision, StageDecisions
from sppo.memory_model.temporary_peaks import linear_temporary_peaks
from sppo.plan.saved_tensors import SavedTensor
from sppo.planner.activations.policies import recompute_fates, uniform
from sppo.planner.activations.stage_problem import StageProblem
from sppo.schedule.order import residency

TIME_LIMIT_SECONDS = 10.0
"""Of one stage's program; what is found by then is taken."""

MIB = 1024.0**2
MILLISECOND = 1e6


@dataclass(frozen=True, kw_only=True)
class _Choice:
    """One unit of one subsequence in one part, and the columns of its variables."""

    part: int
    index: int
    unit: SavedTensor
    size_bytes: int
    travels: int | None
    again: int | None


class _Program:
    """Rows, columns and costs of the program while it is built. Sizes in MiB, times in ms."""

    def __init__(self) -> None:
        self.costs: list[float] = []
        self.upper: list[float] = []
        self.integer: list[int] = []
        self.cells: list[tuple[int, int, float]] = []
        self.most: list[float] = []

    def column(self, cost: float, upper: float, *, integer: bool) -> int:
        self.costs.append(cost)
        self.upper.append(upper)
        self.integer.append(int(integer))
        return len(self.costs) - 1

    def row(self, cells: dict[int, float], most: float) -> None:
        """sum of cells <= most."""
        number = len(self.most)
        self.cells += [(number, column, value) for column, value in cells.items()]
        self.most.append(most)

    def solve(self) -> np.ndarray | None:
        """Values of all columns, or None if nothing fits."""
        if not self.costs:
            return np.zeros(0)
        rows, columns, values = zip(*self.cells, strict=True)
        matrix = coo_array((values, (rows, columns)), shape=(len(self.most), len(self.costs)))
        result = milp(
            self.costs,
            integrality=self.integer,
            bounds=Bounds(0, self.upper),
            constraints=LinearConstraint(matrix.tocsr(), -np.inf, self.most),
            options={"time_limit": TIME_LIMIT_SECONDS, "mip_rel_gap": 1e-4},
        )
        found: np.ndarray | None = result.x
        return found


def cheapest_fates(problem: StageProblem) -> StageDecisions:
    """The decisions of least added time. Raises Short if none fits."""
    keep = _keep(problem)
    if problem.excess_bytes(problem.memory(keep)) <= 0:
        return keep
    _require_leanest_fits(problem)
    program = _Program()
    choices = list(_choices(problem, program))
    beside = _beside_columns(problem, program, choices)
    _memory_rows(problem, program, choices, beside)
    _host_row(problem, program, choices)
    if problem.profile.overlapped_copies:
        _excess_rows(problem, program, choices)
    values = program.solve()
    if values is None:
        raise Short(max(1, problem.untracked.charged), "device and host memory together")
    return _fates(problem, choices, values)


def _keep(problem: StageProblem) -> StageDecisions:
    return uniform(problem, KEEP, lambda part, index: 0.0)


def _require_leanest_fits(problem: StageProblem) -> None:
    """Raise Short where sending everything, after any recomputation, still leaves too much."""
    sent = [
        uniform(problem, decision, lambda part, index: 1.0) for decision in recompute_fates(problem)
    ]
    excess = min(problem.excess_bytes(problem.memory(decisions)) for decisions in sent)
    if excess > 0:
        first = problem.shapes[0].layers[0]
        raise Short(excess, f"device memory on the stage that begins with layer {first}")


def _choices(problem: StageProblem, program: _Program) -> Iterator[_Choice]:
    profile, last = problem.profile, len(problem.lengths) - 1
    lean = problem.block.recompute_lean
    per_byte = 1 / profile.d2h_bytes_per_second + 1 / profile.h2d_bytes_per_second
    for part, shape in enumerate(problem.shapes):
        layers = len(shape.layers)
        for index, tokens in enumerate(problem.lengths):
            for unit in shape.saved_tensors.values():
                size = shape.saved_tensor_bytes(unit, tokens)
                copies = shape.copies[unit.name]
                if copies == 0:
                    continue
                travels = again = None
                if unit in shape.offloadable and index < last:
                    cost = 0.0 if profile.overlapped_copies else size * per_byte * 1e3
                    travels = program.column(cost, copies, integer=True)
                if unit.name in lean:
                    spent = layers * recompute_ns(
                        shape.model,
                        profile,
                        (unit.name,),
                        start=problem.starts[index],
                        tokens=tokens,
                        shards=shape.shards,
                    )
                    again = program.column(spent / MILLISECOND, 1, integer=True)
                if travels is not None and again is not None:
                    program.row({travels: 1, again: layers}, layers)
                if travels is not None or again is not None:
                    yield _Choice(
                        part=part,
                        index=index,
                        unit=unit,
                        size_bytes=size,
                        travels=travels,
                        again=again,
                    )


def _beside_columns(
    problem: StageProblem, program: _Program, choices: list[_Choice]
) -> dict[tuple[int, int, bool], int]:
    """By part, subsequence and direction: a column no less than what a compute takes beside.

    One row for each of its moments, in which every unit that is made again counts by itself.
    """
    again: dict[tuple[int, int], dict[str, int]] = {}
    for choice in choices:
        if choice.again is not None:
            again.setdefault((choice.part, choice.index), {})[choice.unit.name] = choice.again
    columns = {}
    for part, kind in enumerate(problem.kinds[: len(problem.shapes)]):
        for index, tokens in enumerate(problem.tokens[part]):
            for forward in (True, False):
                column = columns[part, index, forward] = program.column(0.0, np.inf, integer=False)
                for moment, added in linear_temporary_peaks(kind, forward):
                    base = problem.largest_bytes(part, index, (moment,))
                    if base is None:
                        continue
                    cells = {column: -1.0}
                    for name, number in again.get((part, index), {}).items():
                        cells[number] = added[name] * tokens / kind.shards / MIB
                    program.row(cells, -base / MIB)
    return columns


def _memory_rows(
    problem: StageProblem,
    program: _Program,
    choices: list[_Choice],
    beside: dict[tuple[int, int, bool], int],
) -> None:
    """At every compute: kept so far, less recomputed, less gone, within the budget."""
    keep = _keep(problem)
    fixed = problem.fixed_bytes(problem.memory(keep)) + problem.untracked.charged
    assert problem.device_limit_bytes is not None
    by_place: dict[tuple[int, int], list[_Choice]] = {}
    for choice in choices:
        by_place.setdefault((choice.part, choice.index), []).append(choice)
    cells: dict[int, float] = {}
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
            for choice in by_place.get((part, index), ()):
                size = choice.size_bytes / MIB
                if choice.again is not None and change.kept:
                    cells[choice.again] = cells.get(choice.again, 0) - change.kept * layers * size
                if choice.travels is not None and change.away:
                    cells[choice.travels] = cells.get(choice.travels, 0) - change.away * size
        column = beside[compute.virtual, compute.subsequence, compute.forward]
        budget = (problem.device_limit_bytes - fixed - messages) / MIB
        program.row({**cells, column: 1.0}, budget - kept)


def _host_row(problem: StageProblem, program: _Program, choices: list[_Choice]) -> None:
    limit = problem.host_limit_bytes
    if limit is not None:
        limit -= problem.memory(_keep(problem)).kv_host
    cells = {
        choice.travels: slot_bytes(choice.size_bytes) / MIB
        for choice in choices
        if choice.travels is not None
    }
    if limit is not None and cells:
        program.row(cells, limit / MIB)


def _excess_rows(problem: StageProblem, program: _Program, choices: list[_Choice]) -> None:
    """A column for what each subsequence's copies take beyond the compute they hide under."""
    profile = problem.profile
    sizes: dict[tuple[int, int], dict[int, float]] = {}
    for choice in choices:
        if choice.travels is not None:
            cells = sizes.setdefault((choice.part, choice.index), {})
            cells[choice.travels] = float(choice.size_bytes)
    for (part, index), cells in sizes.items():
        following = problem.costs[part][index + 1]
        for rate, hidden in (
            (profile.d2h_bytes_per_second, following.forward_ns),
            (profile.h2d_bytes_per_second, following.backward_ns),
        ):
            excess = program.column(1.0, np.inf, integer=False)
            times = {column: size / rate * 1e3 for column, size in cells.items()}
            program.row({**times, excess: -1.0}, hidden / MILLISECOND)


def _fates(problem: StageProblem, choices: list[_Choice], values: np.ndarray) -> StageDecisions:
    rows = [[KEEP] * len(problem.lengths) for _ in problem.shapes]
    for choice in choices:
        decision = rows[choice.part][choice.index]
        offload, recompute = decision.offload, decision.recompute
        if choice.travels is not None and (n := round(values[choice.travels])) > 0:
            offload = (*offload, (choice.unit.name, n))
        if choice.again is not None and round(values[choice.again]):
            recompute = (*recompute, choice.unit.name)
        rows[choice.part][choice.index] = Decision(offload=offload, recompute=recompute)
    return rows
