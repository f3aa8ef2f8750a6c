"""Ranks on GPUs are bound to their memory domain where that is possible, and nowhere else."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.launch.ranks import binding, processes


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two memory domains, `numactl`, and a torch that binds."""
    for domain in ("node0", "node1"):
        (tmp_path / domain).mkdir()
    monkeypatch.delenv(binding.VARIABLE, raising=False)
    monkeypatch.setattr(binding, "DOMAINS", tmp_path)
    monkeypatch.setattr(binding.shutil, "which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(binding, "_has_numa", lambda folder: True)
    return tmp_path


def test_ranks_on_gpus_of_several_domains_are_bound(machine: Path) -> None:
    line = processes.command(Path("job.json"), 8, processes.ONE_NODE, "cuda")
    assert line[line.index("--numa-binding") + 1] == "node"


def test_nothing_is_bound_on_a_cpu_or_in_one_domain(machine: Path) -> None:
    assert "--numa-binding" not in processes.command(Path("job.json"), 2)
    (machine / "node1").rmdir()
    assert binding.numa_binding("cuda") is None


@pytest.mark.parametrize("missing", ["numactl", "torch"])
def test_nothing_is_bound_without_the_means(
    missing: str, machine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if missing == "numactl":
        monkeypatch.setattr(binding.shutil, "which", lambda name: None)
    else:
        monkeypatch.setattr(binding, "_has_numa", lambda folder: False)
    assert binding.numa_binding("cuda") is None


@pytest.mark.parametrize(("value", "bound"), [("socket", "socket"), ("none", None), ("", "node")])
def test_the_users_choice_counts(
    value: str, bound: str | None, machine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(binding.VARIABLE, value)
    assert binding.numa_binding("cuda") == bound
