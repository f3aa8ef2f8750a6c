"""The history: its files, series and their breaks, the command."""

from __future__ import annotations

import json
import multiprocessing
from pathlib import Path

import msgspec
import pytest

from benchmarks.cli import main
from benchmarks.regression.history import store
from benchmarks.regression.history.entry import Entry, Gpu, Machine, Metric
from benchmarks.regression.history.figure import most_relevant
from benchmarks.regression.history.report import value_words
from benchmarks.regression.history.series import all_series
from tests.unit.docs_text import CHECKOUT
from tests.unit.history_cases import OTHER_MACHINE, VERSIONS, entry, metric, steps
from tests.unit.test_history_sources import STEPS, run_folder
from tests.unit.timing_cases import run_of


def test_a_line_is_added_once_wherever_its_source_lies(tmp_path: Path) -> None:
    assert store.append(tmp_path, entry(1, metric(1.0), source="a")) is not None
    assert store.append(tmp_path, entry(1, metric(1.0), source="b", committed="")) is None
    assert store.append(tmp_path, entry(1, metric(1.1))) is not None
    assert len(store.read(tmp_path)[0]) == 2


def test_a_run_folder_that_grew_is_one_point(tmp_path: Path) -> None:
    """Both lines stay in the file; the later one counts."""
    folder = tmp_path / "h"
    done = run_of(STEPS)
    for launches in (1, len(done)):
        run = run_folder(tmp_path / "run", done[:launches])
        assert main(["history", "add", str(run), "--history", str(folder)]) == 0
    (path,) = folder.glob("*.jsonl")
    assert len(path.read_text().splitlines()) == 2
    (made,), _ = store.read(folder)
    assert "mini-cpu-152MiB/megatron-tuned/step_seconds" in {each.name for each in made.metrics}


def test_two_checks_of_one_commit_are_kept(tmp_path: Path) -> None:
    """Of different topics, in files of one name. The same topics are one point."""
    for topic, value in (("plans", 1.0), ("calls", 1.0), ("calls", 2.0)):
        checked = entry(1, metric(value, f"{topic}/changed_values"), kind="check", source="a")
        assert store.append(tmp_path, checked) is not None
    values = {each.metrics[0].name: each.metrics[0].value for each in store.read(tmp_path)[0]}
    assert values == {"plans/changed_values": 1.0, "calls/changed_values": 2.0}
    assert len(store.read(tmp_path)[0]) == 2


def test_a_torn_line_is_said_and_kept(tmp_path: Path) -> None:
    path = store.append(tmp_path, entry(1, metric(1.0)))
    assert path is not None
    whole = path.read_bytes()
    path.write_bytes(whole + whole[:50])
    assert store.append(tmp_path, entry(2, metric(1.0))) == path
    entries, (unreadable,) = store.read(tmp_path)
    assert [each.commit for each in entries] == [entry(1).commit, entry(2).commit]
    assert str(unreadable).startswith(f"{path}:2: not read, kept: ")
    assert path.read_bytes().startswith(whole + whole[:50] + b"\n")


def test_a_failed_write_leaves_the_file_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = store.append(tmp_path, entry(1, metric(1.0)))
    assert path is not None
    before = path.read_bytes()

    def fails(descriptor: int) -> None:
        raise OSError("no space")

    monkeypatch.setattr(store.os, "fsync", fails)
    with pytest.raises(OSError, match="no space"):
        store.append(tmp_path, entry(2, metric(1.0)))
    assert path.read_bytes() == before


def _append_all(directory: Path, numbers: list[int]) -> None:
    for number in numbers:
        store.append(directory, entry(number, metric(1.0)))


def test_two_processes_may_add_at_once(tmp_path: Path) -> None:
    """Both add the same lines, in opposite order."""
    spawn = multiprocessing.get_context("spawn")
    numbers = list(range(40))
    adding = [
        spawn.Process(target=_append_all, args=(tmp_path, order))
        for order in (numbers, numbers[::-1])
    ]
    for process in adding:
        process.start()
    for process in adding:
        process.join(60)
        assert process.exitcode == 0
    entries, unreadable = store.read(tmp_path)
    assert sorted(each.commit for each in entries) == sorted(entry(n).commit for n in numbers)
    assert unreadable == []


def test_series_never_cross_machines() -> None:
    entries = [entry(1, metric(1.0)), entry(2, metric(1.0), machine=OTHER_MACHINE)]
    assert len(all_series(entries)) == 2


def test_a_series_is_cut_at_versions_and_at_other_work() -> None:
    entries = [
        entry(1, metric(1.0)),
        entry(2, metric(1.0)),
        entry(3, metric(2.0), versions={**VERSIONS, "torch": "2.14.0"}),
        entry(4, metric(2.0, setting="8,192 tokens"), versions={**VERSIONS, "torch": "2.14.0"}),
    ]
    (series,) = all_series(entries)
    assert [segment.broken_by for segment in series.segments] == [
        "",
        "torch 2.13.0 -> 2.14.0",
        "work: 4,096 tokens -> 8,192 tokens",
    ]


def test_a_change_at_a_break_is_no_regression() -> None:
    before = [entry(n, metric(1.0)) for n in range(6)]
    after = [entry(n, metric(2.0), versions={"python": "3.12"}) for n in range(6, 12)]
    (series,) = all_series([*before, *after])
    assert not any(series.changes(segment) for segment in series.segments)
    assert not series.regressed_now


def test_void_points_are_kept_and_never_judged() -> None:
    entries = steps([1.0, 1.01, 0.99, 1.0, 1.01, 1.0])
    void = [entry(n, metric(2.0), void="GPU clocks") for n in (6, 7, 8)]
    (series,) = all_series([*entries, *void])
    assert len(series.points) == 9
    assert not series.changes(series.segments[0])
    assert not series.regressed_now
    assert series.suspect is None


def test_another_gpu_setting_is_another_machine() -> None:
    environment = {"cpu_model": "x", "cores": 2, "gpu_settings": [{"name": "H100", "driver": "1"}]}
    plain = Machine.of(environment)
    environment["gpu_settings"] = [{"name": "H100", "driver": "2", "power_limit_watts": 500.0}]
    limited = Machine.of(environment)
    assert plain.id != limited.id
    assert plain.id.startswith("h100-1-gpus-2-cores-")
    assert Machine.of({"gpus": ["H100"]}).gpus == plain.gpus, "a record of before the settings"


def filled(folder: Path, entries: list[Entry]) -> list[str]:
    for each in entries:
        store.append(folder, each)
    return ["--history", str(folder)]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["add"], "name a SOURCE"),
        (["add", "nowhere"], "nowhere"),
        (["show", "--metric", "nope"], "no metric with 'nope'; known: tiny-cpu"),
        (["show", "--machine", "nope"], "no machine 'nope'; known: a-processor"),
        (["export", "--format", "bencher", "--better", "more", "x"], "leave --better out"),
        (["export", "--format", "github-action-benchmark", "--better", "more", "x"], "--better"),
        (["show", "--png", "nowhere/x.png"], "nowhere/x.png"),
    ],
)
def test_wrong_input_is_one_line(
    arguments: list[str], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = filled(tmp_path, steps([1.0, 1.0]))
    assert main(["history", *arguments, *folder]) == 2
    captured = capsys.readouterr()
    assert words in captured.err
    assert captured.err.count("\n") == 1


def test_an_empty_history_says_what_to_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["history", "show", "--history", str(tmp_path)]) == 2
    assert "add one by `sppo-bench history add`" in capsys.readouterr().err


def test_a_run_is_added_and_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = run_folder(tmp_path / "run", run_of(STEPS))
    folder = ["--history", str(tmp_path / "h")]
    for word in ("added to", "known, not added"):
        assert main(["history", "add", str(run), *folder]) == 0
        assert word in capsys.readouterr().out
    figure = tmp_path / "h.png"
    assert main(["history", "show", "--metric", "sppo/step", "--png", str(figure), *folder]) == 0
    assert "too few points: 1 of 4" in capsys.readouterr().out
    assert figure.read_bytes().startswith(b"\x89PNG")


def test_show_fails_only_on_the_night_that_confirms(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of a slow-down from the seventh commit on, the eighth is the second slow point."""
    seconds = [1.0, 1.01, 0.99, 1.0, 1.01, 1.0, 1.3, 1.3, 1.31, 1.3]
    codes = []
    for number, value in enumerate(seconds):
        folder = filled(tmp_path, [entry(number, metric(value))])
        codes.append(main(["history", "show", *folder]))
        if number == 6:
            assert "newest point worse by 30.0%: not yet two in a row" in capsys.readouterr().out
    assert codes == [0, 0, 0, 0, 0, 0, 0, 1, 0, 0]
    assert f"worse by 30.0% since {entry(6).commit_name}" in capsys.readouterr().out


def test_a_figure_never_hides_a_regression(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Neither where series are more than panels nor where the figure cannot be written."""
    steady = [f"row-{number}/step_seconds" for number in range(14)]
    for number, value in enumerate([1.0, 1.01, 0.99, 1.0, 1.01, 1.0, 1.3, 1.3]):
        metrics = [*(metric(1.0, name) for name in steady), metric(value, "slow/step_seconds")]
        folder = filled(tmp_path, [entry(number, *metrics)])
    chosen = all_series(store.read(tmp_path)[0])
    assert [each.name for each in most_relevant(chosen)] == ["slow/step_seconds", *steady[:11]]
    for name, chosen_by, words in (
        ("x.png", "step_seconds", "12 of 15 series"),
        ("nowhere/x.png", "slow/step_seconds", "error: "),
    ):
        arguments = ["--png", str(tmp_path / name), "--metric", chosen_by, *folder]
        assert main(["history", "show", *arguments]) == 1
        captured = capsys.readouterr()
        assert "regression: slow/step_seconds: worse by 30.0%" in captured.err
        assert words in captured.err
    assert (tmp_path / "x.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("value", "unit", "words"),
    [
        (1.488, "s", "1.488 s"),
        (0.0123, "s", "12.3 ms"),
        (789_449_000, "ns", "789.4 ms"),
        (127_997_160, "bytes", "122.1 MiB"),
        (3, "bytes", "3 bytes"),
        (1.2834, "ratio", "1.283x"),
        (0.0527, "share", "5.27 %"),
        (1_280_743, "count", "1,280,743"),
    ],
)
def test_values_in_words(value: float, unit: str, words: str) -> None:
    assert value_words(value, unit) == words


def test_a_series_that_ended_raises_no_alarm(tmp_path: Path) -> None:
    """Its last point was the one that confirmed a regression."""
    slow = [1.0, 1.01, 0.99, 1.0, 1.01, 1.0, 1.3, 1.3]
    folder = filled(tmp_path, steps(slow))
    assert main(["history", "show", *folder]) == 1
    filled(tmp_path, [entry(20, metric(1.0, "mini-cpu-none/sppo/step_seconds"))])
    assert main(["history", "show", *folder]) == 0


@pytest.mark.parametrize("commit", ["known", ""])
def test_a_machine_that_is_gone_raises_no_alarm(commit: str, tmp_path: Path) -> None:
    """Its last point confirmed a regression. Named by --machine, the machine is judged."""
    unknown = {} if commit else {"commit": "", "committed": ""}
    folder = filled(tmp_path, steps([1.0, 1.01, 0.99, 1.0, 1.01, 1.0, 1.3, 1.3], **unknown))
    assert main(["history", "show", *folder]) == 1
    other = {"machine": OTHER_MACHINE, **unknown}
    filled(tmp_path, [entry(7, metric(1.0), **other)])
    assert main(["history", "show", *folder]) == 1, "both machines have the newest commit"
    filled(tmp_path, [entry(8, metric(1.0), **other)])
    assert main(["history", "show", *folder]) == 0
    assert main(["history", "show", "--machine", "a-processor", *folder]) == 1


def test_of_two_sources_with_a_wrong_one_none_is_added(tmp_path: Path) -> None:
    run = run_folder(tmp_path / "run", run_of(STEPS))
    arguments = ["history", "add", str(run), "nowhere", "--history", str(tmp_path / "h")]
    assert main(arguments) == 2
    assert not (tmp_path / "h").exists()


@pytest.mark.parametrize("kind", [Entry, Metric, Machine, Gpu])
def test_every_key_is_explained(kind: type[msgspec.Struct]) -> None:
    text = (CHECKOUT / "docs" / "history.md").read_text()
    assert [key for key in kind.__struct_encode_fields__ if f"`{key}`" not in text] == []


def test_a_line_of_the_file_is_plain_json(tmp_path: Path) -> None:
    path = store.append(tmp_path, entry(1, metric(1.0)))
    assert path is not None
    assert json.loads(path.read_text())["schema"] == "sppo-history/1"
