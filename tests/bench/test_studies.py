"""The studies' verbs with real launches, on the smallest workload."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.cli import main
from benchmarks.records import record as records
from benchmarks.records import store

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Nothing is written into the checkout."""
    (tmp_path / "results").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(store, "published_directory", lambda: tmp_path / "published")
    return tmp_path


@pytest.mark.soak
def test_two_policies_do_equal_work_in_one_layout(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = "--policies auto,lean --launches 1 --measured-steps 2 --warmup-steps 0 --publish --json"
    flags += " --no-wandb"
    assert main(["ablation", "mini-cpu", *flags.split()]) == 0
    document = json.loads(capsys.readouterr().out)
    auto, lean = document["policies"]
    assert (auto["status"], lean["status"]) == ("ok", "ok")
    assert lean["peak_device_bytes"] < auto["peak_device_bytes"]
    assert (auto["recomputed_bytes"], lean["recomputed_bytes"] > 0) == (0, True)
    done = records.read_all(Path(document["directory"]))
    lengths = {tuple(record.plan["lengths_tokens"]) for record in done if record.plan}
    assert len(lengths) == 1
    published = {path.name for path in (folder / "published" / "ablation").iterdir()}
    assert published == {f"mini-cpu-152MiB.{ending}" for ending in ("csv", "json", "md", "png")}


@pytest.mark.soak
def test_sppo_reaches_the_longest_sequence_that_is_asked_for(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """12 MiB hold eight times the workload's length: K and V lie in the host tier."""
    flags = "--systems sppo --device-memory 12MiB --json --no-wandb"
    assert main(["longest", "mini-cpu", *flags.split()]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert row["longest_tokens"] == 4096, row
    assert row["fails_with"] == "not asked beyond 4,096 tokens"
    assert row["peak_device_bytes"] <= 12 * 1024**2
    assert (folder / "published" / "longest" / "mini-cpu-12MiB.json").is_file()
