"""The numbers that the paper reports (results/paper/reported.json)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

from benchmarks.records.store import published_directory, readable
from benchmarks.workloads import of_flags
from sppo.config.models import MODELS
from sppo.config.sizes import parse_tokens
from sppo.config.workload import Workload

ABLATION_HARDWARE = "a100-80g"
"""The hardware profile of the paper's testbed."""

LARGE_MODEL = "gpt-7b"
"""The model of fig. 1 and fig. 12."""


@dataclass(frozen=True, kw_only=True)
class ReportedPoint:
    """A point of the paper: model, length and layout (table 4), and its ablation (fig. 11).

    tuned_megatron: SP and PP of the paper's tuned Megatron. deepspeed_runs: whether table 4 has
    degrees of DeepSpeed. over_megatron: speed over Megatron-LM, read off fig. 11, by
    "full_offload", "adaptive_offload" and "msp"; empty where the figure has no such point.
    is_in_table_4: else the degrees are those of table 4 with more or fewer stages (`on_gpus`).
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
    is_in_table_4: bool = True

    def workload(
        self, *, sequences_per_step: int = 1, device_memory: str | None = None
    ) -> Workload:
        """The point on the paper's hardware. device_memory: a limit such as "40GiB"."""
        workload = of_flags(
            model=self.model,
            seq=self.seq,
            gpus=self.gpus,
            hardware=ABLATION_HARDWARE,
            device_memory=device_memory,
        )
        return replace(workload, sequences_per_step=sequences_per_step)

    def on_gpus(self, gpus: int, seq: str) -> ReportedPoint:
        """The same model on so many GPUs: the same SP with other stages.

        Tuned Megatron has TP up to the number of heads.
        """
        tensor = min(gpus, MODELS[self.model].heads)
        return replace(
            self,
            gpus=gpus,
            seq=seq,
            pipeline_parallel=gpus // self.sequence_parallel,
            tuned_megatron=(tensor, gpus // tensor),
            is_in_table_4=False,
        )


@cache
def _reported() -> dict[str, Any]:
    path = readable(published_directory().parent / "paper" / "reported.json")
    numbers: dict[str, Any] = json.loads(path.read_text())
    return numbers


def points() -> list[ReportedPoint]:
    """All points of table 4. Raises OSError if the file is missing."""
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
    """The points of fig. 11. Raises OSError."""
    return [point for point in points() if point.over_megatron]


def large_points() -> list[ReportedPoint]:
    """The points of SPPO in fig. 1: gpt-7b at 1M, 2M and 4M tokens. Raises OSError."""
    known = [point for point in points() if point.model == LARGE_MODEL]
    rows = [row for row in _reported()["fig1_hours_per_1b_tokens"] if row["system"] == "sppo"]
    return [
        next(
            (
                point
                for point in known
                if point.gpus == row["gpus"] and parse_tokens(point.seq) == parse_tokens(row["seq"])
            ),
            known[0].on_gpus(row["gpus"], row["seq"]),
        )
        for row in rows
    ]


def find_point(workload: Workload) -> ReportedPoint | None:
    """The paper's point with this model, length and number of GPUs, if any. Raises OSError."""
    wanted = (workload.model.name, workload.sequence_tokens, workload.cluster.ranks)
    matching = (p for p in points() if (p.model, parse_tokens(p.seq), p.gpus) == wanted)
    return next(matching, None)


def stated_tokens(model: str, name: str) -> int | None:
    """A length in tokens that the text states beside fig. 10, None if silent. Raises OSError.

    name: "megatron_max", "megatron_oom_above", "deepspeed_max" or "sppo_max_tested".
    """
    length = _reported()["fig10_statements"][model].get(name)
    return None if length is None else parse_tokens(length)


def longest_tokens(system: str, model: str, gpus: int) -> int | None:
    """The longest sequence in fig. 12, in tokens. Raises OSError.

    system: "sppo", "megatron_tuned" or "deepspeed". 0 stands for "cannot run"; None if the
    figure has no such system, model or number of GPUs.
    """
    figure = _reported()["fig12_max_seq_m_tokens_gpt7b"]
    if model != "gpt-7b" or gpus not in figure["gpus"] or system not in figure:
        return None
    millions = figure[system][figure["gpus"].index(gpus)]
    return parse_tokens(f"{millions}M") if millions else 0


def longest_gpus() -> list[int]:
    """The numbers of GPUs in fig. 12. Raises OSError."""
    return list(_reported()["fig12_max_seq_m_tokens_gpt7b"]["gpus"])


def msp_table() -> Mapping[str, list[list[int]]]:
    """Table 3 (PP 4, N 8): subsequences and ranks, one list for each stage. Raises OSError."""
    table: Mapping[str, list[list[int]]] = _reported()["table3_msp_pp4_n8"]
    return table


def numbers(name: str) -> Any:
    """A block of `reported.json` as JSON values, such as "fig5_llama65b_128k". Raises OSError."""
    return _reported()[name]
