"""The proof of tests/soak/noise.py, on launches made by hand instead of real runs."""

from __future__ import annotations

import json
from argparse import Namespace
from pathlib import Path
from typing import Any

import msgspec
import pytest

from benchmarks.records.record import Record
from tests.soak import noise
from tests.unit.timing_cases import BUSY, run_of


def proof(
    runs: list[list[Record]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> tuple[int, dict[str, Any]]:
    """Exit code and report of a proof whose first run is the quiet one."""
    path = tmp_path / "proof.json"
    flags = ["noise", "--quiet", "1", "--busy", str(len(runs) - 1), "--neighbours", "0"]
    monkeypatch.setattr("sys.argv", [*flags, "--output", str(path)])
    monkeypatch.setattr(noise, "run", lambda asked, folder: (runs.pop(0), 1.0))
    code = noise.main()
    return code, json.loads(path.read_text())


def test_marked_and_unclaimed_ratios_are_no_failure(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    right = {"megatron": (1.5,) * 3, "sppo": (1.0,) * 3}
    wrong = {"megatron": (2.5,) * 3, "sppo": (1.0,) * 3}
    failed = run_of(right)
    for place in (0, 2, 4):
        failed[place] = msgspec.structs.replace(failed[place], status="timeout", steps=[])
    runs = [run_of(right), run_of(right), run_of(wrong, [BUSY] * 3), failed]
    code, report = proof(runs, monkeypatch, tmp_path)
    assert code == 0
    assert report["pooled_ratio"] == 1.5
    assert (report["busy_runs"], report["busy_claims"], report["busy_marked"]) == (3, 1, 2)
    assert report["wrong_without_the_rule"] == 1
    assert report["busy"][2]["unclaimed_off"] is None


def test_a_wrong_claim_without_a_mark_fails(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    right = run_of({"megatron": (1.5,) * 3, "sppo": (1.0,) * 3})
    wrong = run_of({"megatron": (1.7,) * 3, "sppo": (1.0,) * 3})
    code, report = proof([right, wrong], monkeypatch, tmp_path)
    assert (code, report["wrong_unmarked"]) == (1, 1)


def test_a_stopped_proof_reads_the_runs_that_have_ended(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Of a run that has not ended nothing is kept."""
    launched: list[str] = []

    def launch(asked: object, folder: Path) -> float:
        launched.append(folder.name)
        (folder / "run").mkdir(parents=True)
        return 2.0

    monkeypatch.setattr(noise, "launched_seconds", launch)
    monkeypatch.setattr(noise, "read_all", lambda directory: [directory.name])
    asked = Namespace()
    (tmp_path / "busy-0" / "stopped").mkdir(parents=True)
    assert noise.run(asked, tmp_path / "quiet-0") == (["run"], 2.0)
    assert noise.run(asked, tmp_path / "quiet-0") == (["run"], 2.0)
    assert noise.run(asked, tmp_path / "busy-0") == (["run"], 2.0)
    assert launched == ["quiet-0", "busy-0"]


def test_a_folder_has_the_runs_of_one_question(tmp_path: Path) -> None:
    with noise.folder_of_runs(tmp_path / "runs", {"budget": 60.0}) as folder:
        assert folder == tmp_path / "runs"
    with noise.folder_of_runs(folder, {"budget": 60.0}):
        pass
    with pytest.raises(SystemExit, match="another question"), noise.folder_of_runs(folder, {}):
        pass
