"""Tables that a plan or a simulation gives in seconds, through the public commands and names."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import redirect_stdout
from io import StringIO
from operator import itemgetter
from typing import Any

from benchmarks.docs.markdown import Columns, factor, gib, rows_table, table
from benchmarks.workloads import find
from sppo import Op, Simulation, SolverOptions, load_hardware, simulate_plan, solve
from sppo.config.sizes import GIB

ALPHA_WORKLOAD = "gpt-7b-128k-8xh100"
SUBSEQUENCES = 16
BARE_PIPELINES = ((4, 8, 1), (2, 8, 1), (4, 8, 2), (8, 32, 1))
"""PP, N, chunks of a stage."""


def output_of(*arguments: str) -> Any:
    """The JSON of a command. Raises ValueError if the command has an exit code other than 0."""
    from benchmarks.cli import main

    written = StringIO()
    with redirect_stdout(written):
        code = main([*arguments, "--json"])
    if code:
        raise ValueError(f"sppo-bench {' '.join(arguments)} ended with exit code {code}")
    return json.loads(written.getvalue())


def unit_costs() -> str:
    """MSP on bare pipelines: makespans in units of one forward (paper table 3)."""
    rows = []
    for stages, count, chunks in BARE_PIPELINES:
        flags = f"--pp {stages} --n {count} --virtual-stages {chunks} --unit-costs"
        without, with_msp = (
            output_of("simulate", *flags.split(), flag) for flag in ("--no-msp", "--msp")
        )
        name = f"PP {stages}, N {count}"
        rows.append(
            [
                f"{name}, {chunks} chunks a stage" if chunks > 1 else name,
                *(f"{step['forward_makespan']:.4g}" for step in (without, with_msp)),
                str(count),
                *(f"{step['makespan']:.4g}" for step in (without, with_msp)),
                str(3 * count),
            ]
        )
    headers = ["bare pipeline", "forward", "forward, MSP", "forward, ideal"]
    return rows_table([*headers, "step", "step, MSP", "step, ideal"], rows)


def offload_share() -> str:
    """alpha_i of the first stage by subsequence (paper sec. 5.2), and the share of the plan."""
    workload = find(ALPHA_WORKLOAD)
    hardware = load_hardware(workload.cluster.hardware)

    def planned(policy: str) -> Any:
        options = SolverOptions(
            policy=policy, sequence_parallel=1, virtual_stages=1, subsequences=SUBSEQUENCES
        )
        return solve(workload, hardware, options)

    plan = planned("paper")
    copies = _seconds(simulate_plan(planned("full-offload"), hardware), Op.OFFLOAD)
    forwards = _seconds(simulate_plan(plan, hardware), Op.FORWARD)
    (chunk,) = plan.stages[0].parts
    rows = []
    for index, tokens in enumerate(plan.lengths_tokens):
        cells = ["", "", "", "0"]
        if index + 1 < SUBSEQUENCES:
            size = copies[index] * hardware.d2h_bytes_per_second
            hidden = forwards[index + 1] * hardware.d2h_bytes_per_second
            cells = [
                f"{size / GIB:.2f}",
                f"{forwards[index + 1]:.3f}",
                f"{hidden / GIB:.2f}",
                f"{min(1.0, hidden / size):.3f}",
            ]
        rows.append([str(index), f"{tokens:,}", *cells, f"{chunk.offload_share[index]:.3f}"])
    headers = ["i", "tokens", "A_i, GiB", "T_(i+1), s", "BW_D2H x T_(i+1), GiB", "alpha_i"]
    return rows_table([*headers, "`offload_share`"], rows)


def _seconds(simulation: Simulation, op: Op) -> dict[int, float]:
    """Time of an instruction on the first stage, by subsequence."""
    return {
        event.instruction.subsequence: (event.end - event.start) / 1e9
        for event in simulation.events
        if event.stage == 0 and event.instruction.op is op
    }


def simulated_ablation() -> str:
    """The paper's fig. 11 in simulation: one row per variant of each point."""
    points = output_of("ablation", "--simulate")["points"]
    columns: Columns = {
        "point": lambda row: "{model}, {ranks} ranks".format(**row),
        "variant": itemgetter("variant"),
        "step, s": lambda row: f"{row['step_seconds']:.3f}" if _ran(row) else row["status"],
        "speed over full offload": lambda row: factor(row["speed_over_full_offload"]),
        "the same in the paper": lambda row: factor(row["paper_speed_over_full_offload"]),
        "device peak": lambda row: gib(row["peak_device_bytes"]),
        "bubble": lambda row: f"{100 * row['bubble_share']:.1f} %" if _ran(row) else "",
    }
    return table(columns, [{**point, **row} for point in points for row in point["rows"]])


def _ran(row: Mapping[str, Any]) -> bool:
    return row["step_seconds"] is not None
