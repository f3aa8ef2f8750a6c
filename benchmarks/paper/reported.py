"""What the paper reports (results/paper/reported.json): its layouts, and its ablation."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from benchmarks.records.store import published_directory, readable
from sppo.config.sizes import parse_tokens
from sppo.config.workload import Workload

ABLATION_HARDWARE = "a100-80g"
"""The profile of the paper's testbed."""


@dataclass(frozen=True, kw_only=True)
class ReportedPoint:
    """A point of the paper: its layout (table 4), and where fig. 11 has it, its ablation.

    tuned_megatron: the (SP, PP) with which the paper tuned Megatron. deepspeed_runs: whether
    table 4 has degrees for it.
    over_megatron: speed over Megatron-LM's, read off the figure, by "full_offload",
    "adaptive_offload" and "msp".
    """

    model: str
    seq: str
    gpus: int
    sequence_parallel: int
    pipeline_parallel: int
    subsequences: int
    tuned_megatron: tuple[int, int]
    deepspeed_runs: bool
    over_megatron: Mapping[str, float]

    def over_full_offload(self, name: str) -> float | None:
        """Speed over that of full offload, from the numbers over Megatron."""
        if name not in self.over_megatron:
            return None
        return self.over_megatron[name] / self.over_megatron["full_offload"]


@cache
def _reported() -> dict[str, Any]:
    path = readable(published_directory().parent / "paper" / "reported.json")
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def points() -> list[ReportedPoint]:
    """All points of table 4. Raises OSError where the file is gone."""
    reported = _reported()
    return [
        ReportedPoint(
            model=row["model"],
            seq=seq,
            gpus=row["gpus"],
            sequence_parallel=row["sp"],
            pipeline_parallel=row["pp"],
            subsequences=count,
            tuned_megatron=(row["tuned_megatron"]["sp"], row["tuned_megatron"]["pp"]),
            deepspeed_runs=row["deepspeed"] is not None,
            over_megatron=reported["fig11_relative_to_megatron"].get(f"{row['model']}_{seq}", {}),
        )
        for row in reported["table4"]
        for seq, count in row["n_by_seq"].items()
    ]


def ablation_points() -> list[ReportedPoint]:
    """Those of fig. 11. Raises OSError."""
    return [point for point in points() if point.over_megatron]


def find_point(workload: Workload) -> ReportedPoint | None:
    """The paper's point with this model, length and number of GPUs. Raises OSError."""
    wanted = (workload.model.name, workload.sequence_tokens, workload.cluster.ranks)
    for point in points():
        if (point.model, parse_tokens(point.seq), point.gpus) == wanted:
            return point
    return None


def statements(model: str) -> Mapping[str, Any]:
    """What the text says of fig. 10. Raises OSError."""
    found: Mapping[str, Any] = _reported()["fig10_statements"][model]
    return found


def longest(system: str, model: str, gpus: int) -> str | None:
    """The longest sequence of fig. 12 ("1.375M"), None where there is none. Raises OSError.

    system: "sppo", "megatron_tuned" or "deepspeed". 0 stands for "cannot run".
    """
    found = _reported()["fig12_max_seq_m_tokens_gpt7b"]
    if model != "gpt-7b" or gpus not in found["gpus"]:
        return None
    millions = found[system][found["gpus"].index(gpus)]
    return f"{millions}M" if millions else None


def longest_gpus() -> list[int]:
    """The numbers of GPUs of fig. 12. Raises OSError."""
    return list(_reported()["fig12_max_seq_m_tokens_gpt7b"]["gpus"])
