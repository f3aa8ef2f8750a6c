"""Recorded proofs: ratios claimed beside a bursty neighbour, and the CUDA path on a CPU."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.docs.markdown import Columns, rows_table, table
from benchmarks.docs.published import read


def noise() -> str:
    """Quiet and busy runs: claimed ratios, marked runs, and ratios without the rule."""
    proof = read("proofs/noise")
    headers = ["runs", "marked", "claim a ratio", "wrong claim", "wrong without the rule", "ratios"]
    rows = [
        [
            f"{len(proof[kind])} {words}",
            str(sum(run["marked"] for run in proof[kind])),
            str(sum(run["claimed"] is not None for run in proof[kind])),
            str(_wrong(proof, kind, "claim_off")),
            str(_wrong(proof, kind, "unclaimed_off")),
            _ratios(proof[kind]),
        ]
        for kind, words in (("quiet", "quiet"), ("busy", "beside the neighbour"))
    ]
    return f"{rows_table(headers, rows)}\n\n{_where(proof)}"


def _wrong(proof: Mapping[str, Any], kind: str, off: str) -> int:
    return sum(abs(run[off] or 0.0) > proof["tolerance"] for run in proof[kind])


def _ratios(runs: Sequence[Mapping[str, Any]]) -> str:
    ratios = [run["ratio_of_all_launches"] for run in runs]
    return f"{min(ratios):.2f} to {max(ratios):.2f}"


def _row(proof: Mapping[str, Any]) -> str:
    """The row whose ratio to SPPO all runs measure."""
    rows = {row for kind in ("quiet", "busy") for run in proof[kind] for row in run["status"]}
    (row,) = rows - {"SPPO"}
    return str(row)


def _where(proof: Mapping[str, Any]) -> str:
    environment = proof["environment"]
    runs = [*proof["quiet"], *proof["busy"]]
    commits = sorted({commit[:7] for run in runs for commit in run["commits"]})
    return (
        f"The row is {_row(proof)}. Its pooled ratio of the quiet runs is "
        f"{proof['pooled_ratio']:.2f}; wrong is over {100 * proof['tolerance']:g} % off. A "
        f"launch has {proof['measured_steps']} timed steps, a run a budget of "
        f"{proof['budget_seconds']:g} s. Measured on {environment['cpu_model']}, "
        f"{environment['cores']} cores, commit{'s' * (len(commits) > 1)} {', '.join(commits)}."
    )


def cuda_cases() -> str:
    """Every proved case: what ran, what nothing ordered, the error, and NCCL's room."""
    proof = read("proofs/cuda")
    columns: Columns = {
        "case": lambda case: case["case"],
        "ranks": lambda case: str(case["ranks"]),
        "operators": lambda case: f"{case['operators']:,}",
        "copies": lambda case: f"{case['copies']:,}",
        "messages, collectives": lambda case: f"{case['messages']:,}",
        "unordered": lambda case: str(len(case["unordered"])),
        "deadlocks": lambda case: str(len(case["communication"])),
        "error": lambda case: f"{case['difference']:.0e}",
        "waiting receives": lambda case: str(case["room"]["waiting_receives"]),
        "SMs of NCCL": lambda case: str(case["room"]["held_sms"]),
    }
    environment = proof["environment"]
    changed = " with changes" if environment["dirty"] else ""
    commit = environment["commit"][:9] + changed
    return (
        f"{table(columns, proof['cases'])}\n\nAt most {proof['sm_budget']} SMs are allowed. "
        f"torch {environment['torch']}, commit {commit}."
    )


def cuda_faults() -> str:
    """Every fault planted in the engine, and the way that showed it."""
    words = {True: "yes", False: "no", None: ""}
    columns: Columns = {
        "planted fault": lambda fault: fault["fault"],
        "in": lambda fault: fault["case"],
        "order of accesses or calls": lambda fault: words[fault["in_order"]],
        "fake CUDA": lambda fault: words[fault["on_fake_cuda"]],
        "wrong numbers": lambda fault: words[fault["in_numbers"]],
    }
    return table(columns, read("proofs/cuda")["faults"])
