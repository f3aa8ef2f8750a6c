"""The plans and pipelines of the expected values. All of it is data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from itertools import product
from typing import Any, TypeAlias

from benchmarks.paper import reported
from benchmarks.reporting.simulated_step import Simulated, of_unit_costs
from benchmarks.workloads import WORKLOADS, find, of_flags
from sppo.config.sizes import parse_bytes, parse_tokens
from sppo.config.workload import Workload

PlanCases: TypeAlias = dict[str, tuple[Workload, Mapping[str, Any]]]
"""By name: a workload, and the solver's options that are fixed."""

TINY_LIMITS = ("136MiB", "none", "152MiB", "116MiB", "100MiB", "92MiB")
"""Device memory of tiny-cpu. The first limit is its own, the last leaves little."""

POLICIES = ("paper", "no-offload", "full-offload", "lean", "full-recompute")

TINY_OPTIONS: Mapping[str, Mapping[str, Any]] = {
    "SP 2": {"sequence_parallel": 2},
    "hosted KV": {"kv_offload": True},
    "resident KV, 1 part": {"kv_offload": False, "virtual_stages": 1},
    "4 parts, no head": {"virtual_stages": 2, "head_alone": False},
    "N 7, equal": {"subsequences": 7, "cut": "equal"},
    "N 6, time": {"subsequences": 6, "cut": "time"},
    "N 8, groups of 4": {"subsequences": 8, "group_subsequences": 4, "virtual_stages": 2},
    "capped lengths": {"longest_tokens": 1024},
    "the paper's solver": {"solver": "paper"},
}

UNIT_PIPELINES: tuple[tuple[int, int, int, str, Mapping[str, Any]], ...] = (
    (4, 1, 8, "", {}),
    (4, 1, 8, ", MSP", {"msp": True}),
    (8, 1, 16, ", MSP", {"msp": True}),
    (4, 2, 8, "", {}),
    (4, 2, 8, ", MSP", {"msp": True}),
    (4, 1, 4, ", 3 sequences", {"sequences": 3}),
    (2, 2, 4, ", 2 sequences", {"sequences": 2}),
)
"""PP, model chunks a stage, N; what else is set, in words and as options."""


def named_plans() -> PlanCases:
    """Every named workload as it is, without the paper's points: `paper_plans` has these."""
    points = [workload for workload, _ in paper_plans().values()]
    named: PlanCases = {name: (workload, {}) for name, workload in WORKLOADS.items()}
    return {name: case for name, case in named.items() if case[0] not in points}


def paper_plans() -> PlanCases:
    """The paper's 15 points, planned as `sppo-bench paper` does: nothing is fixed."""
    return {
        f"{point.model}, {point.seq}, {point.gpus} GPUs": (point.workload(), {})
        for point in reported.points()
    }


def tiny_plans() -> PlanCases:
    """tiny-cpu under other limits, policies and options, and with more or longer sequences."""
    tiny, llama = find("tiny-cpu"), find("tiny-llama-cpu")
    limited = {text: tiny.with_device_memory(parse_bytes(text)) for text in TINY_LIMITS}
    cases: PlanCases = {text: (limited[text], {}) for text in TINY_LIMITS[1:]}
    for text, msp in product(("136MiB", "none", "92MiB"), (True, False)):
        cases[f"{text}, {'MSP' if msp else 'no MSP'}"] = limited[text], {"msp": msp}
    for text, policy in (*product(("136MiB",), POLICIES), ("none", "full-offload")):
        cases[f"{text}, {policy}"] = limited[text], {"policy": policy}
    for text, count in product(("136MiB", "none"), (2, 4)):
        cases[f"{text}, {count} sequences"] = replace(limited[text], sequences_per_step=count), {}
    cases |= {name: (tiny, options) for name, options in TINY_OPTIONS.items()}
    cases |= {
        "32K tokens": (replace(tiny, sequence_tokens=parse_tokens("32K")), {}),
        "3 sequences, mixed": (
            replace(tiny, sequences_per_step=3),
            {"pipeline_parallel": 2, "virtual_stages": 1},
        ),
        "bfloat16": (replace(tiny, dtype="bfloat16"), {}),
        "DP 2, 2 sequences": (replace(limited["none"], sequences_per_step=2), {"data_parallel": 2}),
    }
    return {f"tiny-cpu, {name}": case for name, case in cases.items()} | {
        "tiny-llama-cpu, hosted KV, full-recompute": (
            llama,
            {"kv_offload": True, "policy": "full-recompute"},
        ),
        "tiny-llama-cpu, lean, MSP": (llama, {"policy": "lean", "msp": True}),
    }


def gpu_plans() -> PlanCases:
    """GPU workloads: hosted K and V, several sequences, replicas, the paper's layout."""
    node, big = find("gpt-7b-128k-8xh100"), find("gpt-7b-1m-32xa100")
    half = of_flags(model="gpt-1b", seq="96K", gpus=1, hardware="h100-80g", device_memory="32GiB")
    cases: PlanCases = {
        f"{node.name}, hosted KV": (node, {"kv_offload": True}),
        f"{node.name}, 4 sequences, SP 2 x PP 4": (
            replace(node, sequences_per_step=4),
            {"sequence_parallel": 2, "pipeline_parallel": 4},
        ),
        f"{node.name}, 2 sequences, DP 2": (
            replace(node, sequences_per_step=2),
            {"data_parallel": 2, "sequence_parallel": 4},
        ),
        f"{half.name}, 32 GiB": (half, {}),
        "llama-8b-256k-16xh200": (
            of_flags(model="llama-8b", seq="256K", gpus=16, hardware="h200-141g"),
            {"sequence_parallel": 8, "pipeline_parallel": 2},
        ),
    }
    table_4 = reported.find_point(big)
    assert table_4 is not None
    papers_layout = {
        "sequence_parallel": table_4.sequence_parallel,
        "ulysses_parallel": 1,
        "context_parallel": 1,
        "pipeline_parallel": table_4.pipeline_parallel,
        "data_parallel": 1,
        "subsequences": table_4.subsequences,
        "virtual_stages": 1,
    }
    for policy, msp in (("full-offload", False), ("paper", False), ("auto", True)):
        name = f"{big.name}, the paper's layout, {policy}, {'MSP' if msp else 'no MSP'}"
        cases[name] = big, {**papers_layout, "policy": policy, "msp": msp}
    return cases


def unit_pipelines() -> dict[str, Simulated]:
    """Pipelines in unit costs, whose makespan can be computed by hand."""
    return {
        f"PP {stages}, parts {parts}, N {count}{further}": of_unit_costs(
            pipeline_parallel=stages, virtual_stages=parts, subsequences=count, **options
        )
        for stages, parts, count, further, options in UNIT_PIPELINES
    }
