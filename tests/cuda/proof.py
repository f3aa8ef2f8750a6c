"""Every case and every planted fault of the CUDA path, on a CPU; a table as JSON.

    python -m tests.cuda.proof --output results/published/proofs/cuda.json

Exits 1 if a case has a finding, a wrong number, a deadlock or too little room, or if a planted
fault is not seen.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.environment import CHECKOUT, git_state
from benchmarks.records import store
from tests.cuda.cases import BY_NAME, CASES, Case
from tests.cuda.fake import device_guard
from tests.cuda.fake.communication import SM_BUDGET
from tests.cuda.fake_cuda_rank import reports
from tests.cuda.planted_faults import FAULTS
from tests.cuda.ranks_in_threads import TOLERANCE, run_case


def ranks_of(case: Case) -> list[int]:
    """Ranks for fake CUDA: the first, the last, and one of a stage in the middle."""
    middle = case.stages // 2 * case.shards if case.stages > 2 else 0
    return sorted({0, middle, case.ranks - 1})


def case_row(case: Case, on_fake_cuda: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Both ways of one case: real numbers of all ranks in threads, ranks on fake CUDA."""
    outcome = run_case(case)
    ranks = [on_fake_cuda[f"{case.name}:{rank}"] for rank in ranks_of(case)]
    unordered = dict(outcome.findings)
    for rank in ranks:
        for finding, count in rank["findings"].items():
            unordered[finding] = unordered.get(finding, 0) + count
    return {
        "case": case.name,
        "ranks": case.ranks,
        "operators": outcome.operators + sum(rank["operators"] for rank in ranks),
        "copies": outcome.copies,
        "messages": outcome.messages,
        "unordered": unordered,
        "communication": outcome.communication,
        "room": asdict(outcome.room),
        "room_findings": outcome.room.findings(),
        "difference": outcome.difference,
        "error": outcome.error,
    }


def fault_row(name: str, on_fake_cuda: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Where one planted fault was seen."""
    fault = FAULTS[name]
    with pytest.MonkeyPatch.context() as patch:
        fault.plant(patch)
        outcome = run_case(BY_NAME[fault.case])
    signs = [*outcome.findings, *outcome.communication]
    faked = on_fake_cuda.get(f"{fault.case}:{fault.on_fake_cuda}:{name}")
    return {
        "fault": name,
        "case": fault.case,
        "in_order": any(fault.sign in sign for sign in signs),
        "in_numbers": not outcome.difference < TOLERANCE,
        "on_fake_cuda": None
        if faked is None
        else any(fault.sign in finding for finding in faked["findings"]),
        "first": next(iter(signs), ""),
    }


def is_clean(row: dict[str, Any]) -> bool:
    wrong = row["unordered"] or row["communication"] or row["room_findings"] or row["error"]
    return not wrong and row["difference"] < TOLERANCE


def is_seen(row: dict[str, Any]) -> bool:
    seen = row["in_order"] and row["on_fake_cuda"] is not False
    return seen and (row["in_numbers"] or not FAULTS[row["fault"]].seen_by_values)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, help="the JSON of all rows")
    asked = parser.parse_args()
    if device_guard.WHY_NOT is not None:
        print(f"not proved: {device_guard.WHY_NOT}", file=sys.stderr)
        return 1
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        library = device_guard.shared_object(Path(folder))
        names = [f"{case.name}:{rank}" for case in CASES for rank in ranks_of(case)]
        faulty = [
            f"{fault.case}:{fault.on_fake_cuda}:{name}"
            for name, fault in FAULTS.items()
            if fault.on_fake_cuda is not None
        ]
        on_fake_cuda = reports(library, [*names, *faulty])
    cases, faults = [], []
    for case in CASES:
        cases.append(case_row(case, on_fake_cuda))
        print(f"{'clean' if is_clean(cases[-1]) else 'WRONG'}: {case.name}", flush=True)
    for name in FAULTS:
        faults.append(fault_row(name, on_fake_cuda))
        print(f"{'seen' if is_seen(faults[-1]) else 'NOT SEEN'}: {name}", flush=True)
    if asked.output:
        commit, dirty = git_state(CHECKOUT)
        document = {
            "schema": "sppo-proof/1",
            "what": "the CUDA path on a CPU: order of accesses, late copies, NCCL's calls",
            "label": "simulated",
            "environment": {"torch": torch.__version__, "commit": commit, "dirty": dirty},
            "sm_budget": SM_BUDGET,
            "tolerance": TOLERANCE,
            "cases": cases,
            "faults": faults,
        }
        store.write_bytes(asked.output, json.dumps(document, indent=1).encode() + b"\n")
    return int(not (all(map(is_clean, cases)) and all(map(is_seen, faults))))


if __name__ == "__main__":
    sys.exit(main())
