"""Flags to workload and solver options."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import workloads
from benchmarks.cli import main
from benchmarks.commands import arguments as selection
from benchmarks.commands.arguments import UsageError
from benchmarks.commands.planning.plan import Plan
from sppo.planner.options import SolverOptions

MODEL = "--model gpt-tiny --seq 4K --gpus 2 --hardware cpu-2core"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_a_plan_by_model_flags(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = f"plan {MODEL} --device-memory 136MiB --n 8 --json --pp 2"
    assert main(arguments.split()) == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["workload"] == "gpt-tiny-4096-2xcpu"
    assert plan["pipeline_parallel"] == 2
    assert len(plan["lengths_tokens"]) == 8
    named_arguments = "plan tiny-cpu --device-memory 136MiB --n 8 --pp 2"
    assert main([*named_arguments.split(), "--json"]) == 0
    named = json.loads(capsys.readouterr().out)
    assert {**plan, "workload": ""} == {**named, "workload": ""}


def test_flags_reach_the_solver(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = "plan mini-cpu --pp 2 --n 4 --virtual-stages 1 --cut equal --policy no-offload"
    assert main([*arguments.split(), "--sequences-per-step", "3", "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["lengths_tokens"] == [128] * 4
    assert plan["virtual_stages"] == 1
    assert plan["sequences_per_step"] == 3
    assert plan["predicted_host_bytes"] == [0, 0]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (f"tiny-cpu {MODEL}", "give the name or the model flags, not both"),
        ("--model gpt-tiny --seq 4K", "--gpus, --hardware missing"),
        (MODEL.replace("gpt-tiny", "gpt-9"), "unknown model 'gpt-9'; known: gpt-1b, gpt-7b"),
        (MODEL.replace("cpu-2core", "abacus"), "cpu-2core"),
        (MODEL.replace("4K", "many"), "write 4096, 128K or 1M"),
        (MODEL.replace("4K", "-4"), "write 4096, 128K or 1M"),
        (MODEL.replace("4K", "0"), "a sequence needs at least 2 tokens"),
        (MODEL.replace("--gpus 2", "--gpus 0"), "--gpus 0: it must be at least 1"),
        (MODEL.replace("--gpus 2", "--gpus -8"), "--gpus -8: it must be at least 1"),
        (f"{MODEL} --device-memory 0", "it must be positive"),
        ("mini-cpu --n 0", "--subsequences 0: it must be at least 1"),
        ("mini-cpu --n 513", "take N of at most 512"),
        ("mini-cpu --sequences-per-step 0", "--sequences-per-step 0"),
        ("mini-cpu --virtual-stages 64", "virtual_stages"),
        ("mini-cpu --policy lazy", "unknown policy 'lazy'"),
        ("mini-cpu --cut zigzag", "unknown cut 'zigzag'"),
        ("mini-cpu --solver oracle", "oracle"),
    ],
)
def test_wrong_input_is_one_line(
    arguments: str, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["plan", *arguments.split()]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("error: ")
    assert captured.err.count("\n") == 1
    assert words in captured.err
    assert not captured.out


def test_only_what_was_given_reaches_the_solver() -> None:
    assert selection.solver_options(Plan()) == SolverOptions()
    assert selection.solver_options(Plan(subsequences=3)) == SolverOptions(subsequences=3)
    with pytest.raises(UsageError, match="unknown solver 'oracle'"):
        selection.solver_options(Plan(solver="oracle"))


@pytest.mark.parametrize(
    "name", [name for name, w in workloads.WORKLOADS.items() if w.cluster.device == "cuda"]
)
def test_flags_describe_the_named_workloads(name: str) -> None:
    named = workloads.find(name)
    made = workloads.of_flags(
        model=named.model.name,
        seq=str(named.sequence_tokens),
        gpus=named.cluster.ranks,
        hardware=named.cluster.hardware,
        device_memory=str(named.device_memory_bytes),
    )
    slice_of_any_gpu = named.name.endswith("-1gpu")
    assert made == (replace(named, name=made.name) if slice_of_any_gpu else named)


def test_gpus_come_in_whole_nodes_and_bring_their_memory() -> None:
    def make(gpus: int, memory: str | None = None) -> workloads.Workload:
        return workloads.of_flags(
            model="gpt-7b", seq="128K", gpus=gpus, hardware="a100-80g", device_memory=memory
        )

    four = make(4)
    assert (four.cluster.nodes, four.cluster.ranks_per_node) == (1, 4)
    assert (four.dtype, four.cluster.device) == ("bfloat16", "cuda")
    assert four.device_memory_bytes == pytest.approx(workloads.GPU_MEMORY, rel=0.01)
    assert four.host_memory_bytes == workloads.HOST_MEMORY_GPU
    assert make(16, "none").cluster.nodes == 2
    assert make(16, "none").device_memory_bytes is None
    with pytest.raises(ValueError, match="12 GPUs are no whole nodes of 8: take 8"):
        make(12)
