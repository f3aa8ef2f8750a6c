"""Data as a user names it: flags of every verb, empty values, and names that are no Unicode."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from benchmarks import workloads
from benchmarks.cli import main, parse
from benchmarks.commands.arguments import with_data
from benchmarks.environment import describe_environment, import_path
from benchmarks.file_names import openable, printable
from benchmarks.job import Job
from benchmarks.records import store
from benchmarks.worker.tokens import token_file
from tests.unit.data_files import workload

VERBS = (
    ["run"],
    ["longest"],
    ["limit"],
    ["sweep", "--sequences-per-step", "1"],
    ["ablation"],
)
"""Every command that trains."""

NAMES = (b"caf\xe9.txt", "café.txt".encode(), b"two\nlines.txt", b"\x1b[31m.txt", b"\xff\xfe \x80")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "results").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The one line of an exit with code 2."""
    assert main(arguments) == 2
    line = capsys.readouterr().err
    assert line.count("\n") == 1
    assert line.startswith("error: ")
    return line


@pytest.mark.parametrize("verb", VERBS, ids=lambda verb: str(verb[0]))
@pytest.mark.parametrize("flag", ["--data", "--text"])
def test_every_verb_that_trains_takes_data(
    verb: list[str], flag: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Data that is not there is said before any launch, and nothing is left behind."""
    name, *further = verb
    arguments = [name, "mini-cpu", *further, flag, "absent.txt"]
    assert "data 'absent.txt': no such file" in refused(arguments, capsys)
    runs = folder / "results" / "runs"
    assert not runs.exists() or list(runs.iterdir()) == []
    parsed = parse([*arguments, "--data-field", "body", "--tokenizer", "t.json"])
    planned = with_data(workloads.find("mini-cpu"), parsed)  # type: ignore[arg-type]
    assert (planned.text, planned.data_field, planned.tokenizer) == ("absent.txt", "body", "t.json")


@pytest.mark.parametrize("verb", VERBS, ids=lambda verb: str(verb[0]))
@pytest.mark.parametrize("flag", ["--data", "--text", "--tokenizer", "--data-field", "--output"])
@pytest.mark.parametrize("form", ["two words", "one word"])
def test_an_unset_variable_is_wrong_input(
    verb: list[str], flag: str, form: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """An empty path would be the current folder: all of its files, or a run folder in it."""
    value = [flag, ""] if form == "two words" else [f"{flag}="]
    assert f"{flag} has an empty value" in refused([verb[0], "mini-cpu", *value], capsys)
    assert [path.name for path in folder.iterdir()] == ["results"]


def test_a_search_needs_data_for_its_longest_sequence(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Said before the first launch, not in the middle of the search."""
    (folder / "a.txt").write_text("a" * 1000)
    line = refused(["longest", "mini-cpu", "--data", "a.txt"], capsys)
    assert "holds 1000 tokens, one sequence needs 4097" in line
    assert "--at-most" in line
    assert list((folder / "results").rglob("*.json")) == []


def test_data_that_cannot_be_meant(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = ["run", "mini-cpu", "--systems", "sppo"]
    os.mkfifo(folder / "pipe")
    (folder / "secret.txt").write_text("a" * 9999)
    assert "give the file by --data" in refused([*run, "--data-field", "text"], capsys)
    assert "empty value" in refused([*run, "--data", " "], capsys)
    assert "no such file" in refused([*run, "--data", "~nobody-here/a.txt"], capsys)
    assert "File name too long" in refused([*run, "--data", "a" * 5000], capsys)
    assert "no regular file" in refused([*run, "--data", "pipe"], capsys)
    assert "no regular file" in refused([*run, "--data", "/dev/zero"], capsys)
    assert "no fields" in refused([*run, "--data", "stdlib", "--data-field", "x"], capsys)
    with pytest.raises(ValueError, match="the name is empty"):
        token_file(workload(""), 1, folder / "tokens.npy")


@pytest.mark.parametrize("name", NAMES)
def test_any_name_opens_and_is_recorded(folder: Path, name: bytes) -> None:
    (folder / os.fsdecode(name)).write_bytes(b"abcdefgh" * 2)
    words = printable(os.fsdecode(name))
    assert openable(words).read_bytes()
    assert len(words.splitlines()) == 1
    for given in (os.fsdecode(name), words):
        text = token_file(workload(given), 1, folder / "tokens.npy")
        assert words in (text.file, text.description.removesuffix(", as bytes"))
        assert msgspec.json.decode(store.to_json(text))["description"]


def test_names_in_a_folder_and_in_messages(folder: Path) -> None:
    (folder / "data").mkdir()
    (folder / "data" / os.fsdecode(b"a\xe9\n.bin")).write_bytes(b"ab\0cd" * 20)
    with pytest.raises(ValueError, match=r"a\\xe9\\x0a.bin is binary") as caught:
        token_file(workload("data"), 1, folder / "tokens.npy")
    assert "\n" not in str(caught.value)


def test_names_reach_the_job_and_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    name = os.fsdecode(b"caf\xe9.txt")
    monkeypatch.setattr(sys, "argv", ["sppo-bench", "run", "--data", name])
    monkeypatch.setenv("WANDB_PROJECT", os.fsdecode(b"caf\xe9"))
    values = describe_environment()
    assert values["command"].endswith(r"'caf\xe9.txt'")
    assert values["variables"]["WANDB_PROJECT"] == r"caf\xe9"
    msgspec.json.encode(values)
    given = parse(["run", "mini-cpu", "--data", name])
    planned = with_data(workloads.find("mini-cpu"), given)  # type: ignore[arg-type]
    assert msgspec.json.decode(msgspec.json.encode(planned))["text"] == r"caf\xe9.txt"


def test_any_other_text_that_is_no_unicode_is_escaped_in_files() -> None:
    value = Job(
        workload=workload(os.fsdecode(b"a\xe9")),
        system=os.fsdecode(b"\xe9"),
        row="",
        launch=1,
        settings={os.fsdecode(b"k\xe9"): [os.fsdecode(b"v\xe9"), 1, None]},
        weights_path="",
        tokens_path="",
        output_directory="",
        ranks=1,
        warmup_steps=0,
        measured_steps=0,
    )
    written = json.loads(store.to_json(value))
    assert written["settings"] == {r"k\xe9": [r"v\xe9", 1, None]}
    assert written["workload"]["text"] == r"a\xe9"


@pytest.fixture
def foreign_folder(folder: Path) -> Path:
    path = folder / os.fsdecode(b"r\xe9s")
    (path / "results").mkdir(parents=True)
    return path


@pytest.mark.parametrize("verb", [*VERBS, ["emulate", "sppo"], ["paper"]], ids=lambda v: str(v[0]))
def test_a_run_folder_outside_utf_8_is_refused(
    verb: list[str],
    foreign_folder: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Named, behind a link, or because the current folder is one; nothing is left behind."""
    name, *further = verb
    arguments = [name, *further, *([] if name == "paper" else ["mini-cpu"])]
    (foreign_folder.parent / "link").symlink_to(foreign_folder)
    for output in (str(foreign_folder), f"{foreign_folder}/further", "link"):
        assert "not UTF-8" in refused([*arguments, "--output", output], capsys)
    monkeypatch.chdir(foreign_folder)
    assert "not UTF-8" in refused(arguments, capsys)
    assert list((foreign_folder / "results").iterdir()) == []


def test_output_of_any_encoding_ends(foreign_folder: Path) -> None:
    """`timeline` writes into a folder of any name and prints it, also to an ASCII terminal."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", "timeline", "mini-cpu", "--output", "d\xe9"],
        cwd=foreign_folder,
        env={**os.environ, **import_path(), "PYTHONIOENCODING": "ascii"},
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert b"Traceback" not in done.stderr
    assert rb"d\u00e9" in done.stdout
