from __future__ import annotations

from dataclasses import replace

import pytest

from benchmarks import workloads
from benchmarks.job import throw_away_tokens
from benchmarks.workloads import WORKLOADS
from sppo.config.hardware import load_hardware
from sppo.config.sizes import length_name, limit_label, parse_bytes
from sppo.plan.plan import check_plan
from sppo.planner.solve import solve


def test_names_tell_model_length_ranks_and_hardware() -> None:
    for name, workload in WORKLOADS.items():
        assert workload.name == name
        if workload.cluster.device == "cuda":
            model, length, hardware = name.rsplit("-", 2)
            assert workload.model.name == model
            assert length_name(workload.sequence_tokens).lower() in (length, "1280k")
            assert hardware == "1gpu" or hardware.startswith(f"{workload.cluster.ranks}x")


def test_the_papers_lengths() -> None:
    assert workloads.find("gpt-7b-1m-32xa100").sequence_tokens == 1_048_576
    assert workloads.find("gpt-13b-1280k-64xa100").sequence_tokens == 1280 * 1024
    assert workloads.find("gpt-65b-1m-128xa100").cluster.nodes == 16


def test_one_sequence_a_step_everywhere() -> None:
    assert {workload.sequences_per_step for workload in WORKLOADS.values()} == {1}


def test_an_unknown_name_lists_the_known() -> None:
    with pytest.raises(ValueError, match="unknown workload 'tiny'; known: tiny-cpu"):
        workloads.find("tiny")


@pytest.mark.parametrize("size_bytes", [None, 152 * 1024**2, 2 * 1024**3, 123_457])
def test_limit_labels_parse_back(size_bytes: int | None) -> None:
    assert parse_bytes(limit_label(size_bytes)) == size_bytes


@pytest.mark.parametrize(
    ("tokens", "name"), [(512, "512"), (4096, "4,096"), (131_072, "128K"), (4 * 1024**2, "4M")]
)
def test_length_names(tokens: int, name: str) -> None:
    assert length_name(tokens) == name


@pytest.mark.parametrize(("ranks", "tokens"), [(1, 64), (3, 66), (4, 64), (12, 72), (128, 256)])
def test_the_first_step_divides_over_any_degree(ranks: int, tokens: int) -> None:
    workload = workloads.find("tiny-cpu")
    workload = replace(workload, cluster=replace(workload.cluster, ranks_per_node=ranks))
    assert throw_away_tokens(workload) == tokens
    assert throw_away_tokens(replace(workload, sequence_tokens=32)) == 32


def test_a_plan_is_for_its_workload() -> None:
    workload = workloads.find("tiny-cpu")
    plan = solve(workload, load_hardware("cpu-2core"))
    check_plan(plan, workload)
    with pytest.raises(ValueError, match="1 sequences a step, the workload has 2"):
        check_plan(plan, replace(workload, sequences_per_step=2))
    with pytest.raises(ValueError, match="the workload has llama-tiny"):
        check_plan(plan, workloads.find("tiny-llama-cpu"))
