"""Another installed package brings a system by an entry point."""

from __future__ import annotations

from pathlib import Path

import pytest

from baselines import registry
from baselines.sppo import ADAPTER
from benchmarks.rows.assign import assign, grid_assignments
from benchmarks.rows.row import ROWS, find
from benchmarks.workloads import find as find_workload
from tests import toy_system

MINI = find_workload("mini-cpu")


def install(folder: Path, monkeypatch: pytest.MonkeyPatch, *points: str) -> None:
    """A package that is installed in the folder, with these entry points."""
    described = folder / "toy_package-1.0.dist-info"
    described.mkdir()
    (described / "METADATA").write_text("Metadata-Version: 2.1\nName: toy-package\nVersion: 1.0\n")
    (described / "entry_points.txt").write_text("\n".join((f"[{registry.GROUP}]", *points)))
    monkeypatch.syspath_prepend(str(folder))


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, monkeypatch, "toy = tests.toy_system:ADAPTER")


@pytest.mark.usefixtures("toy")
def test_its_adapter_is_known_by_name() -> None:
    assert registry.installed() == ("toy",)
    assert registry.load("toy") is toy_system.ADAPTER
    own = "deepspeed, deepspeed-ours, megatron, megatron-ours, megatron-te, native, reference, sppo"
    with pytest.raises(ValueError, match=f"known: {own}, toy"):
        registry.load("vllm")


@pytest.mark.usefixtures("toy")
def test_it_is_a_row_where_it_is_named() -> None:
    assert set(find([])) < set(ROWS)
    sppo, row = find(["toy", "sppo", "toy"])
    assert (sppo.label, row.label, row.system, row.choosing) == ("SPPO", "toy", "toy", "tuned")
    with pytest.raises(ValueError, match=r"unknown system 'vllm'; known: .*, toy$"):
        find(["vllm"])
    assignment = assign(row, MINI)
    assert assignment.status is None
    assert assignment.settings == {"degree": 1}, "untuned: the first of its grid"
    assert [point.settings_text for point in grid_assignments("toy", MINI)] == [
        "degree 1",
        "degree 2",
    ]


@pytest.mark.parametrize(
    ("point", "words"),
    [
        ("toy = tests.toy_system:ToySettings", "is no adapter"),
        ("other = tests.toy_system:ADAPTER", "is called 'toy'"),
    ],
)
def test_what_is_no_adapter_is_said(
    point: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(tmp_path, monkeypatch, point)
    with pytest.raises(ValueError, match=words):
        registry.load(point.split()[0])


def test_our_own_names_are_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, monkeypatch, "sppo = tests.toy_system:ADAPTER")
    assert registry.installed() == ()
    assert registry.load("sppo") is ADAPTER
