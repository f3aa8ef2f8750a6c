from __future__ import annotations

import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from benchmarks.launch.recording import as_mismatch
from benchmarks.tracking import launches, sent
from tests.unit.fake_wandb import read_runs
from tests.unit.records_factory import MIB, record

NAMES = [f"value {number}" for number in range(25)]


def test_summary_has_no_number_that_the_launch_does_not_have() -> None:
    failed = record(
        status="failed",
        reason="a reason",
        steps=[],
        memory=[],
        step_seconds_median=None,
        tokens_per_second_per_rank=None,
    )
    assert launches.summary(failed) == {"status": "failed", "reason": "a reason"}


def test_summary_takes_the_largest_rank() -> None:
    assert launches.summary(record())["tracked_peak_bytes"] == 4 * MIB


def test_tags_tell_system_workload_status_and_limit() -> None:
    assert launches.tags(record()) == ["sppo", "mini-cpu", "ok", "memory-152MiB", "measured"]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("WANDB_MODE", "Offline"),
        ("WANDB_BASE_URL", "localhost:8080"),
        ("WANDB_PROJECT", "a/b"),
        ("WANDB_INIT_TIMEOUT", "soon"),
    ],
)
def test_an_error_of_wandb_is_one_line(
    name: str, value: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    words = launches.track([record()], tmp_path)
    assert words is not None
    assert words.startswith("wandb: ")
    assert words.endswith("the records are complete without it")
    assert "\n" not in words


def test_an_empty_variable_is_unset_and_no_identity_is_shared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("WANDB_MODE", "WANDB_DIR", "WANDB_PROJECT", "WANDB_TAGS"):
        monkeypatch.setenv(name, "")
    monkeypatch.setenv("WANDB_RUN_ID", "abc123")
    monkeypatch.setenv("WANDB_RESUME", "must")
    assert launches.track([record(), record(launch=2)], tmp_path) is None
    folders = [path.name for path in (tmp_path / "wandb").glob("offline-run-*")]
    assert len({name.rsplit("-", 1)[1] for name in folders} - {"abc123"}) == 2


@pytest.mark.parametrize("home", ["", "/dev/null/home"])
def test_without_a_cache_folder_the_process_of_wandb_is_quiet(
    home: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """It logs to standard error where it has no folder for its own log."""
    for name in ("WANDB_MODE", "WANDB_DIR", "WANDB_CACHE_DIR", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", home)
    assert launches.track([record()], tmp_path) is None
    assert capfd.readouterr().err == ""
    assert list((tmp_path / "wandb").glob("offline-run-*/*.wandb"))


def test_runs_are_written_offline_failed_ones_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """The command of the process may have a name that is no Unicode; wandb reads it."""
    for name in ("WANDB_MODE", "WANDB_DIR", "WANDB_PROJECT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(sys, "argv", ["sppo-bench", "run", "--data", os.fsdecode(b"caf\xe9.txt")])
    done = [record(), record(launch=2, status="failed", reason="x")]
    assert launches.track(done, tmp_path) is None
    assert len(list((tmp_path / "wandb").glob("offline-run-*/*.wandb"))) == 2
    assert capfd.readouterr().out == ""


def test_a_launch_has_one_identity_however_often_it_is_sent(tmp_path: Path) -> None:
    """A second try, also from a copy of the folder, makes no second run of the same launch."""
    done = [record(), record(launch=2), record(row="SPPO 2"), record(started="2026-11-25T00:00:00")]
    assert len({launches.run_id(launch) for launch in done}) == 4
    for _ in range(2):
        assert launches.track(done, tmp_path) is None
    assert len(list((tmp_path / "wandb").glob("offline-run-*"))) == 4


def test_a_launch_that_turns_out_as_a_mismatch_gets_that_status(tmp_path: Path) -> None:
    """A run that was stopped may be logged before the launches are compared. Its old rate goes."""
    ok = record(mfu_full=0.5)
    for launch in (ok, ok, as_mismatch(ok, "another loss"), as_mismatch(ok, "another loss")):
        assert launches.track([launch], tmp_path) is None
    before, after = read_runs(tmp_path)
    assert before.run_id == after.run_id
    assert (before.summary["status"], after.summary["status"]) == ("ok", "mismatch")
    assert (before.summary["mfu_full"], after.summary["mfu_full"]) == (0.5, None)
    assert (before.exit_code, after.exit_code) == (0, 1)
    assert "mismatch" in after.tags
    assert "ok" not in after.tags
    assert after.steps == []


def log_names(folder: Path, run_id: str) -> None:
    writer = sent.Sent(folder=folder, run_id=run_id)
    for name in NAMES:
        writer.add(name)
    writer.close()


def test_commands_that_log_at_once_lose_nothing(tmp_path: Path) -> None:
    """Eight writers of one list, each of a run of its own."""
    runs = list("abcdefgh")
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda run: log_names(tmp_path, run), runs))
    for run in runs:
        assert list(sent.Sent(folder=tmp_path, run_id=run).results) == NAMES
