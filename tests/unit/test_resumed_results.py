"""What a resumed command may neither remove nor write: earlier records, and newer results."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import pytest

from benchmarks.cli import main
from benchmarks.launch import preparing, resuming
from benchmarks.launch.options import Options
from benchmarks.records import record as records
from benchmarks.records.record import Peak
from benchmarks.workloads import find
from tests.unit.scripted_launches import scripted
from tests.unit.test_resume import COMMANDS, RUN, go_on, only_folder, stopped_run

LIMIT, LONGEST = COMMANDS[2], COMMANDS[4]

OPTIONS = Options(launches=1, warmup_steps=0, measured_steps=1)


def test_inputs_that_fail_remove_no_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder has lost its inputs.json, and the inputs cannot be written."""
    folder = stopped_run(tmp_path)
    (folder / "inputs.json").unlink()
    before = sorted(folder.rglob(records.FILE_NAME))
    monkeypatch.setattr(preparing, "write_weights", full_disk)
    assert go_on(RUN, tmp_path, folder) == 2
    assert before
    assert sorted(folder.rglob(records.FILE_NAME)) == before
    assert not (folder / "tokens.npy").exists()


def test_another_text_is_refused_before_another_shape_is_cut_from_it(tmp_path: Path) -> None:
    """A study's first value may be measured already: nothing else would look at its text."""
    (tmp_path / "a.txt").write_text("a" * 5000)
    workload = replace(find("mini-cpu"), text=str(tmp_path / "a.txt"))
    folder = tmp_path / "folder"
    folder.mkdir()
    peak = Peak(flops_per_second=1e11, source="a test", kind="measured")
    with patch.object(preparing, "steady_peak", lambda threads: peak):
        preparing.prepare(workload, OPTIONS, folder)
        resumed = preparing.prepare(workload, OPTIONS, folder)
    larger = replace(workload, sequences_per_step=2)
    assert preparing.with_workload(resumed, larger, OPTIONS).text != resumed.text
    (folder / "tokens.npy").unlink()
    (tmp_path / "a.txt").write_text("b" * 5000)
    with pytest.raises(resuming.ResumeError, match="the text or a library has changed"):
        preparing.with_workload(resumed, larger, OPTIONS)


def full_disk(*about: object) -> None:
    raise OSError(28, "No space left on device")


@pytest.mark.parametrize(
    ("arguments", "name"),
    [(LIMIT, "limits"), (LONGEST, "longest")],
    ids=["limit", "longest"],
)
def test_a_finished_folder_publishes_nothing_a_second_time(
    arguments: list[str], name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with scripted(tmp_path):
        assert main([*arguments, "--output", str(tmp_path)]) == 0
    (published,) = (tmp_path / "published" / name).iterdir()
    values = json.loads(published.read_bytes())
    newer = json.dumps({**values, "date": "2099-01-01"})
    published.write_text(newer)
    first = capsys.readouterr()
    assert go_on(arguments, tmp_path, only_folder(tmp_path)) == 0
    again = capsys.readouterr()
    assert again.out == first.out
    assert f"saved to {published}\n" not in again.err
    assert published.read_text() == newer
