"""SPPO's steps at the paper's points: its own plan, its heuristic's plan, and this project's plan.

The first two are planned when asked for, in tenths of a second. This project's plans are those of
`results/expected/`, which `sppo-bench check` compares with the planner.
"""

from __future__ import annotations

import itertools
import json
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Any

from benchmarks.paper.items.profile import source_words, testbed
from benchmarks.records.store import published_directory, readable
from benchmarks.workloads import WORKLOADS
from sppo.config.errors import Infeasible, LayoutDoesNotFit
from sppo.config.hardware import Hardware
from sppo.config.workload import Workload
from sppo.plan.layout import Degrees
from sppo.plan.plan import Plan
from sppo.planner.activations import policies
from sppo.planner.evaluate import plan_of
from sppo.planner.layouts.candidates import every_layout
from sppo.planner.layouts.timed_layout import TimedLayout
from sppo.planner.msp import with_msp
from sppo.planner.options import SolverOptions
from sppo.planner.report.wording import counted
from sppo.planner.solve import solve

PAPER_POLICY = "paper"

EXPECTED = ("plans-paper", "plans-named")
"""Files of results/expected/ with plans of the paper's points."""


@dataclass(frozen=True, kw_only=True)
class SimulatedStep:
    """A step of SPPO: its layout in words, and its seconds.

    short: what the plan lacks of the device, "" where it fits. source: of a point. plan: None for a
    committed plan.
    """

    settings: str
    seconds: float
    short: str = ""
    source: str
    plan: Plan | None = None


def paper_plan(
    workload: Workload, degrees: Degrees, subsequences: int, profile: Hardware | None = None
) -> SimulatedStep:
    """The paper's own plan: its SP, PP and N, its policy, one chunk a stage, MSP where it fits.

    Where the plan does not fit the device, the step is that of a larger device. Raises ValueError
    if the workload cannot have these degrees.
    """
    layout = paper_layout(workload, degrees, subsequences, profile or testbed())
    choose = partial(policies.choose, policy=PAPER_POLICY)
    short = ""
    try:
        plan = plan_of(layout, choose)
    except LayoutDoesNotFit as error:
        short = str(error)
        spacious = replace(workload, device_memory_bytes=None, host_memory_bytes=None)
        plan = plan_of(replace(layout, workload=spacious), choose)
    else:
        plan = with_msp(plan, [layout], choose, None).plan
    return SimulatedStep(
        settings=f"{words(plan)}, policy paper",
        seconds=plan.makespan_seconds,
        short=short,
        source=source_words(),
        plan=plan,
    )


def paper_layout(
    workload: Workload, degrees: Degrees, subsequences: int, profile: Hardware
) -> TimedLayout:
    """The layout of these degrees, FLOPs-balanced, one chunk a stage, K and V on the device."""
    options = SolverOptions(
        sequence_parallel=degrees.shards,
        ulysses_parallel=1,
        context_parallel=1,
        weights="whole",
        pipeline_parallel=degrees.stages,
        data_parallel=degrees.replicas,
        subsequences=subsequences,
        virtual_stages=1,
        kv_offload=False,
    )
    (layout,) = every_layout(workload, profile, options)
    return layout


def paper_heuristic(workload: Workload) -> SimulatedStep:
    """The plan of `--solver paper`. Raises Infeasible where none fits by the printed model."""
    plan = solve(workload, testbed(), SolverOptions(solver="paper", virtual_stages=1, msp=None))
    limit = workload.device_memory_bytes
    needed = max(stage.memory.device_peak for stage in plan.stages)
    over = 0 if limit is None else needed - limit
    short = f"{over / 2**30:.2f} GiB of device memory" if over > 0 else ""
    return SimulatedStep(
        settings=words(plan),
        seconds=plan.makespan_seconds,
        short=short,
        source=source_words("`--solver paper`"),
        plan=plan,
    )


def own_plan(name: str) -> SimulatedStep:
    """This project's plan, by its case in `results/expected/`. Raises OSError, KeyError.

    name: of a case, or of a workload, whose plan may be that of a point of the paper.
    """
    names = [name]
    workload = WORKLOADS.get(name)
    if workload is not None:
        length = f"{workload.sequence_tokens // 1024}K"
        names.append(f"{workload.model.name}, {length}, {workload.cluster.ranks} GPUs")
    for file, known in itertools.product(EXPECTED, names):
        case = _cases(file).get(known)
        if case is not None:
            break
    else:
        raise KeyError(f"no plan of {name} in results/expected/: run `sppo-bench check --update`")
    if case["status"] != "ok":
        raise Infeasible(f"{name}: {case['status']}")
    layout = case["layout"]
    degrees = Degrees(
        layout["sequence_parallel"], layout["pipeline_parallel"], layout["data_parallel"]
    )
    chunks = counted(layout["virtual_stages"], "chunk")
    msp = ", MSP" if case["lendings"]["count"] else ""
    division = layout["ulysses_parallel"], layout.get("context_parallel", 1)
    sharded = ", sharded weights" if layout.get("sharded_weights") else ""
    split = f"{degrees.words(*division)}{sharded}, N {layout['subsequences']}"
    settings = f"{split}, {chunks} a stage{msp}"
    return SimulatedStep(
        settings=settings,
        seconds=case["prediction"]["makespan_seconds"],
        source=source_words(f"results/expected/{file}.json"),
    )


def words(plan: Plan) -> str:
    """ "SP 8 x PP 4, N 160, MSP"."""
    return f"{plan.sharding_words}, N {plan.subsequences}{', MSP' if plan.msp_splits else ''}"


@cache
def _cases(file: str) -> dict[str, Any]:
    path = readable(published_directory().parent / "expected" / f"{file}.json")
    cases: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))["cases"]
    return cases
