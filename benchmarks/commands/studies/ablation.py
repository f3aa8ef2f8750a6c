"""`sppo-bench ablation`: SPPO under each policy, interleaved, as table, CSV, JSON and figure."""

from __future__ import annotations

import json
import sys

from benchmarks.commands import arguments
from benchmarks.commands.arguments import (
    DEGREE_FLAGS,
    MODEL_FLAGS,
    UsageError,
    check_machine,
    find_workload,
    refuse,
)
from benchmarks.commands.output import show_json
from benchmarks.commands.studies.flags import Ablation
from benchmarks.studies import ablation as ablations
from benchmarks.studies import publish
from benchmarks.studies.ablation_report import csv_text, text, told_of
from benchmarks.workloads import DEFAULT
from sppo.config.errors import NotBuilt
from sppo.config.sizes import limit_label
from sppo.planner.activations.policies import POLICIES

SIMULATED_FLAGS = (*MODEL_FLAGS, *DEGREE_FLAGS, "host_link", "node_link")
"""What a measured ablation does not take."""


def ablation(verb: Ablation) -> int:
    """Plan, launch, compare, write; exits 1 on a mismatch or a failure. Raises UsageError."""
    from benchmarks.launch import run
    from benchmarks.launch.progress import display
    from benchmarks.reporting.bar_chart import bar_chart

    if verb.simulate:
        from benchmarks.commands.studies.simulated_ablation import simulated_ablation

        return simulated_ablation(verb)
    refuse(
        verb, SIMULATED_FLAGS, "it goes with --simulate; launches have the layout of auto's plan"
    )
    workload = find_workload(verb.workload or DEFAULT, verb.device_memory)
    policies = check_policies(verb)
    options = arguments.options(verb)
    check_machine(workload)
    try:
        layout, whose = ablations.fixed_layout(workload, policies)
        plans = ablations.assignments(workload, policies, layout)
    except (NotBuilt, ValueError) as error:
        raise UsageError(error) from None
    try:
        directory = run.new_directory(arguments.parent(verb), workload)
        inputs = run.prepare(workload, options, directory)
    except (ValueError, OSError) as error:
        raise UsageError(error) from None
    with display() as shown:
        rows = [assignment for assignment, _ in plans.values()]
        done = run.run(inputs, rows, options, shown)
    results = ablations.results(done, plans, workload)
    told = told_of(done, results, whose)
    document = text(done, results, whose)
    publish.write(
        directory,
        "ablation",
        {"md": f"# {document}\n", "csv": csv_text(results), "json": json.dumps(told, indent=2)},
    )
    bar_chart(done, directory / "ablation.png")
    if verb.json:
        show_json({"directory": str(directory), **told})
    else:
        print(document)
    print(f"\nrecords, ablation.md, .csv, .json, .png: {directory}", file=sys.stderr)
    if verb.publish:
        name = f"{workload.name}-{limit_label(workload.device_memory_bytes)}"
        publish.publish(directory, "ablation", "ablation", name)
    return run.exit_code(done)


def check_policies(verb: Ablation) -> list[str]:
    """The asked policies, `auto` first where it is among them. Raises UsageError."""
    asked = arguments.names(verb.policies) or list(POLICIES)
    unknown = [name for name in asked if name not in POLICIES]
    if unknown:
        raise UsageError(f"unknown policy {unknown[0]!r}; known: {', '.join(POLICIES)}")
    return sorted(dict.fromkeys(asked), key=lambda name: name != "auto")
