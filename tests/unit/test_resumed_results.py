"""What a resumed command may neither remove nor write: earlier records, and newer results."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.cli import main
from benchmarks.launch import run
from benchmarks.records import record as records
from tests.unit.scripted_launches import scripted
from tests.unit.test_resume import COMMANDS, RUN, go_on, only_folder, stopped_run

LIMIT, LONGEST = COMMANDS[2], COMMANDS[4]


def test_inputs_that_fail_remove_no_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder has lost its inputs.json, and the inputs cannot be written."""
    folder = stopped_run(tmp_path)
    (folder / "inputs.json").unlink()
    before = sorted(folder.rglob(records.FILE_NAME))
    monkeypatch.setattr(run, "_write_weights", full_disk)
    assert go_on(RUN, tmp_path, folder) == 2
    assert before
    assert sorted(folder.rglob(records.FILE_NAME)) == before
    assert not (folder / "tokens.npy").exists()


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
