"""What is planned, emulated and run for the expected values. All of it is data."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from importlib.metadata import files
from pathlib import Path
from typing import Any

from benchmarks.environment import CHECKOUT
from benchmarks.paper import reported
from benchmarks.workloads import WORKLOADS, find, of_flags
from sppo.config.folders import in_checkout
from sppo.config.sizes import parse_bytes, parse_tokens
from sppo.config.workload import Workload


@dataclass(frozen=True, kw_only=True)
class PlanCase:
    """A workload and what is fixed of its plan."""

    name: str
    workload: Workload
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class UnitCase:
    """A pipeline without a model."""

    pipeline_parallel: int
    subsequences: int
    virtual_stages: int = 1
    sequences: int = 1
    msp: bool = False

    @property
    def name(self) -> str:
        words = f"PP {self.pipeline_parallel}, parts {self.virtual_stages}, N {self.subsequences}"
        words += f", {self.sequences} sequences" if self.sequences > 1 else ""
        return words + (", MSP" if self.msp else "")


@dataclass(frozen=True, kw_only=True)
class RankCase:
    """A system under fixed settings, emulated or run."""

    name: str
    system: str
    workload: Workload
    settings: Mapping[str, Any] = field(default_factory=dict)


def named_plans() -> list[PlanCase]:
    """Every named workload as it is."""
    return [PlanCase(name=name, workload=workload) for name, workload in WORKLOADS.items()]


def paper_plans() -> list[PlanCase]:
    """The paper's 15 points, planned as `sppo-bench paper` does: nothing is fixed."""
    return [
        PlanCase(name=f"{point.model}, {point.seq}, {point.gpus} GPUs", workload=_workload(point))
        for point in reported.points()
    ]


def _workload(point: reported.ReportedPoint) -> Workload:
    return of_flags(
        model=point.model, seq=point.seq, gpus=point.gpus, hardware=reported.ABLATION_HARDWARE
    )


TINY_LIMITS = ("none", "152MiB", "116MiB", "100MiB", "92MiB")
"""Beside tiny-cpu's own; the last leaves little."""

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


def tiny_plans() -> list[PlanCase]:
    """tiny-cpu under other limits, policies and options, and with more or longer sequences."""
    tiny = find("tiny-cpu")
    by_limit = {text: tiny.with_device_memory(parse_bytes(text)) for text in TINY_LIMITS}
    cases = [PlanCase(name=f"tiny-cpu, {text}", workload=work) for text, work in by_limit.items()]
    every = {"136MiB": tiny, **by_limit}
    for text, wanted in itertools.product(("136MiB", "none", "92MiB"), (True, False)):
        cases.append(
            PlanCase(
                name=f"tiny-cpu, {text}, {'MSP' if wanted else 'no MSP'}",
                workload=every[text],
                options={"msp": wanted},
            )
        )
    for text, policy in (*itertools.product(("136MiB",), POLICIES), ("none", "full-offload")):
        cases.append(
            PlanCase(
                name=f"tiny-cpu, {text}, {policy}", workload=every[text], options={"policy": policy}
            )
        )
    for text, count in itertools.product(("136MiB", "none"), (2, 4)):
        cases.append(
            PlanCase(
                name=f"tiny-cpu, {text}, {count} sequences",
                workload=replace(every[text], sequences_per_step=count),
            )
        )
    cases += [
        PlanCase(name=f"tiny-cpu, {name}", workload=tiny, options=options)
        for name, options in TINY_OPTIONS.items()
    ]
    return [*cases, *_other_shapes(tiny)]


def _other_shapes(tiny: Workload) -> list[PlanCase]:
    llama = find("tiny-llama-cpu")
    longer = replace(tiny, sequence_tokens=parse_tokens("32K"))
    return [
        PlanCase(name="tiny-cpu, 32K tokens", workload=longer),
        PlanCase(
            name="tiny-cpu, 3 sequences, mixed",
            workload=replace(tiny, sequences_per_step=3),
            options={"pipeline_parallel": 2, "virtual_stages": 1},
        ),
        PlanCase(name="tiny-cpu, bfloat16", workload=replace(tiny, dtype="bfloat16")),
        PlanCase(
            name="tiny-cpu, DP 2, 2 sequences",
            workload=replace(tiny, sequences_per_step=2, device_memory_bytes=None),
            options={"data_parallel": 2},
        ),
        PlanCase(
            name="tiny-llama-cpu, hosted KV, full-recompute",
            workload=llama,
            options={"kv_offload": True, "policy": "full-recompute"},
        ),
        PlanCase(
            name="tiny-llama-cpu, lean, MSP",
            workload=llama,
            options={"policy": "lean", "msp": True},
        ),
    ]


def gpu_plans() -> list[PlanCase]:
    """GPU workloads: hosted K and V, several sequences, replicas, the paper's layout."""
    node, big = find("gpt-7b-128k-8xh100"), find("gpt-7b-1m-32xa100")
    table_4 = reported.find_point(big)
    assert table_4 is not None
    papers_layout = {
        "sequence_parallel": table_4.sequence_parallel,
        "pipeline_parallel": table_4.pipeline_parallel,
        "data_parallel": 1,
        "subsequences": table_4.subsequences,
        "virtual_stages": 1,
    }
    half = of_flags(model="gpt-1b", seq="96K", gpus=1, hardware="h100-80g", device_memory="32GiB")
    return [
        PlanCase(name=f"{node.name}, hosted KV", workload=node, options={"kv_offload": True}),
        PlanCase(
            name=f"{node.name}, 4 sequences, SP 2 x PP 4",
            workload=replace(node, sequences_per_step=4),
            options={"sequence_parallel": 2, "pipeline_parallel": 4},
        ),
        PlanCase(
            name=f"{node.name}, 2 sequences, DP 2",
            workload=replace(node, sequences_per_step=2),
            options={"data_parallel": 2, "sequence_parallel": 4},
        ),
        PlanCase(name=half.name + ", 32 GiB", workload=half),
        PlanCase(
            name="llama-8b-256k-16xh200",
            workload=of_flags(model="llama-8b", seq="256K", gpus=16, hardware="h200-141g"),
            options={"sequence_parallel": 8, "pipeline_parallel": 2},
        ),
        *(
            PlanCase(
                name=f"{big.name}, the paper's layout, {policy}, {'MSP' if msp else 'no MSP'}",
                workload=big,
                options={**papers_layout, "policy": policy, "msp": msp},
            )
            for policy, msp in (("full-offload", False), ("paper", False), ("auto", True))
        ),
    ]


def unit_pipelines() -> list[UnitCase]:
    """Pipelines whose makespan one can count by hand."""
    return [
        UnitCase(pipeline_parallel=4, subsequences=8),
        UnitCase(pipeline_parallel=4, subsequences=8, msp=True),
        UnitCase(pipeline_parallel=8, subsequences=16, msp=True),
        UnitCase(pipeline_parallel=4, subsequences=8, virtual_stages=2),
        UnitCase(pipeline_parallel=4, subsequences=8, virtual_stages=2, msp=True),
        UnitCase(pipeline_parallel=4, subsequences=4, sequences=3),
        UnitCase(pipeline_parallel=2, subsequences=4, virtual_stages=2, sequences=2),
    ]


def emulated_cases() -> list[RankCase]:
    """Small roles of each system in bfloat16, a few seconds each."""
    gpt = of_flags(model="gpt-tiny", seq="4K", gpus=4, hardware="a100-80g")
    llama = of_flags(model="llama-tiny", seq="4K", gpus=4, hardware="a100-80g")
    return [
        RankCase(
            name="megatron, TP 2 SP x PP 2, full recompute, 4 sequences",
            system="megatron",
            workload=replace(gpt, sequences_per_step=4),
            settings={
                "tensor_parallel": 2,
                "pipeline_parallel": 2,
                "sequence_parallel": True,
                "recompute": "full",
            },
        ),
        RankCase(
            name="deepspeed, Ulysses 2, ZeRO-3, checkpointed, 2 sequences",
            system="deepspeed",
            workload=replace(gpt, sequences_per_step=2),
            settings={"sequence_parallel": 2, "zero_stage": 3, "checkpointing": "blocks"},
        ),
        RankCase(
            name="sppo, SP 2 x PP 2, MSP, full offload, llama",
            system="sppo",
            workload=llama,
            settings={
                "sequence_parallel": 2,
                "pipeline_parallel": 2,
                "subsequences": 4,
                "msp": True,
                "policy": "full-offload",
            },
        ),
        RankCase(
            name="sppo, SP 4, hosted KV, full recompute",
            system="sppo",
            workload=gpt,
            settings={
                "sequence_parallel": 4,
                "subsequences": 4,
                "kv_offload": True,
                "policy": "full-recompute",
            },
        ),
    ]


def _license() -> Path:
    """A text that is the same in every checkout and beside every installed package."""
    if in_checkout():
        return CHECKOUT / "LICENSE"
    (text,) = (path for path in files("sppo-suite") or () if path.name == "LICENSE")
    return Path(str(text.locate()))


def gloo_cases() -> list[RankCase]:
    """Real launches at mini-cpu on two ranks; they read a text that is the same everywhere."""
    mini = replace(find("mini-cpu"), text=str(_license()))
    return [
        RankCase(
            name="megatron, PP 2, full recompute",
            system="megatron",
            workload=mini,
            settings={"pipeline_parallel": 2, "recompute": "full"},
        ),
        RankCase(
            name="deepspeed, Ulysses 2, ZeRO-1, checkpointed",
            system="deepspeed",
            workload=mini,
            settings={"sequence_parallel": 2, "zero_stage": 1, "checkpointing": "blocks"},
        ),
        RankCase(
            name="sppo, PP 2, N 4, MSP, full offload",
            system="sppo",
            workload=mini,
            settings={
                "pipeline_parallel": 2,
                "subsequences": 4,
                "virtual_stages": 1,
                "policy": "full-offload",
                "msp": True,
            },
        ),
    ]
