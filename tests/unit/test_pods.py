"""Variables of Kubeflow's pods: nodes where they are complete, and nothing elsewhere."""

from __future__ import annotations

from dataclasses import replace

import pytest

from benchmarks.cli import main
from benchmarks.nodes import addresses, place, token
from benchmarks.nodes.place import Place

TRAINER = {
    "PET_NNODES": "2",
    "PET_NPROC_PER_NODE": "auto",
    "PET_NODE_RANK": "1",
    "PET_MASTER_ADDR": "job-node-0-0.job",
    "PET_MASTER_PORT": "29500",
    "KUBERNETES_SERVICE_HOST": "10.96.0.1",
}
"""Kubeflow Trainer 2."""

PYTORCH_JOB = {
    "WORLD_SIZE": "2",
    "RANK": "1",
    "MASTER_ADDR": "job-master-0",
    "MASTER_PORT": "23456",
    "KUBERNETES_SERVICE_HOST": "10.96.0.1",
}
"""A PyTorchJob of Kubeflow's Training Operator 1."""


def test_a_pod_of_the_trainer_is_a_node() -> None:
    where = place.outside(TRAINER)
    assert where == Place(
        count=2,
        rank=1,
        host="job-node-0-0.job",
        port=29_500,
        source="PET_NNODES, PET_NODE_RANK, PET_MASTER_ADDR and PET_MASTER_PORT",
    )


def test_a_pod_of_a_pytorch_job_is_a_node() -> None:
    where = place.outside(PYTORCH_JOB)
    assert where is not None
    assert (where.count, where.rank, where.endpoint) == (2, 1, "job-master-0:23456")
    assert where.source == "WORLD_SIZE, RANK, MASTER_ADDR and MASTER_PORT"


@pytest.mark.parametrize("name", [name for name in TRAINER if name in place.OF_TORCHRUN])
@pytest.mark.parametrize("value", [None, "", "no value"])
def test_incomplete_variables_are_no_nodes(name: str, value: str | None) -> None:
    rest = {key: given for key, given in TRAINER.items() if key != name}
    assert place.outside(rest if value is None else {**rest, name: value}) is None


@pytest.mark.parametrize(
    "changes",
    [
        {"PET_NNODES": "1"},
        {"PET_NNODES": "1:4"},
        {"PET_NODE_RANK": "2"},
        {"PET_MASTER_PORT": "70000"},
        {"PET_MASTER_ADDR": "localhost"},
        {"PET_MASTER_ADDR": "127.0.0.1"},
        {"TORCHELASTIC_RUN_ID": "none"},
        {"LOCAL_RANK": "0"},
        {"OMPI_COMM_WORLD_SIZE": "16"},
        {"SLURM_JOB_ID": "7"},
    ],
    ids=str,
)
def test_other_launchers_and_other_values_are_no_nodes(changes: dict[str, str]) -> None:
    assert place.outside({**TRAINER, **changes}) is None


@pytest.mark.parametrize(
    "changes",
    [
        {"KUBERNETES_SERVICE_HOST": None},
        {"LOCAL_RANK": "0"},
        {"RANK": "2"},
        {"PET_NNODES": "2"},
        {"PMI_SIZE": "2"},
    ],
    ids=str,
)
def test_ranks_of_other_launchers_are_no_nodes(changes: dict[str, str | None]) -> None:
    """A newer operator sets PET_ variables too, and its WORLD_SIZE counts ranks."""
    given = {**PYTORCH_JOB, **changes}
    assert (
        place.outside({name: value for name, value in given.items() if value is not None}) is None
    )


def test_a_command_in_a_pod_names_the_variables(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv(token.VARIABLE, raising=False)
    for name, value in TRAINER.items():
        monkeypatch.setenv(name, value)
    assert main(["limit", "mini-cpu"]) == 2
    first, second = capsys.readouterr().err.splitlines()
    assert first.startswith("node 1 of 2, from PET_NNODES, PET_NODE_RANK, PET_MASTER_ADDR and")
    assert first.endswith("for one node give --nodes 1")
    assert second.startswith(f"error: {token.VARIABLE} is not set")


def test_the_name_of_a_pod_may_come_late(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def resolved(host: str) -> str:
        asked.append(host)
        if len(asked) < 3:
            raise ValueError("no address yet")
        return "10.0.0.1"

    monkeypatch.setattr(addresses, "resolved", resolved)
    monkeypatch.setattr(addresses, "NAME_SECONDS", 0.01)
    pod = place.outside(TRAINER)
    assert pod is not None
    addresses.wait_for_name(pod, 60.0)
    assert asked == [pod.host] * 3
    addresses.wait_for_name(replace(pod, source=""), 60.0)
    assert len(asked) == 3, "a name that a user gives is right or wrong at once"


def test_flags_win_over_pods(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in TRAINER.items():
        monkeypatch.setenv(name, value)
    assert main(["limit", "mini-cpu", "--nodes", "2"]) == 2
    assert "--node-rank and --endpoint missing" in capsys.readouterr().err
