"""Where an installed package reads and writes: the user's data folder, then what it brings."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.cli import main
from benchmarks.commands.measuring import profile
from benchmarks.paper import reported
from benchmarks.records import store
from benchmarks.regression.check import expected
from benchmarks.rows import known_grids, tuning
from benchmarks.workloads import find
from sppo.config import hardware
from sppo.config.folders import PACKAGES, in_checkout

TINY = find("tiny-cpu")


def _results(below: Path) -> Path:
    return below / "data" / "sppo-suite" / "results"


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """As if the packages lay in site-packages and brought what the checkout has committed."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.setattr(store, "in_checkout", lambda: False)
    monkeypatch.setattr(store, "PACKAGED", PACKAGES / "results")
    monkeypatch.setattr(hardware, "in_checkout", lambda: False)
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path


def test_in_this_checkout_everything_is_where_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert in_checkout()
    assert store.results_directory() == PACKAGES / "results"
    assert store.published_directory() == PACKAGES / "results" / "published"
    assert hardware.own_profiles() == hardware.PROFILES
    (tmp_path / "results").mkdir()
    assert store.results_directory() == tmp_path / "results"
    assert store.published_directory() == PACKAGES / "results" / "published"
    absent = store.published_directory() / "tuning" / "absent.json"
    assert store.readable(absent) == absent


def test_runs_go_to_the_user(installed: Path) -> None:
    assert store.results_directory() == _results(installed)
    (installed / "work" / "results").mkdir()
    assert store.results_directory() == installed / "work" / "results"


def test_a_measured_grid_is_saved_with_the_user_and_read_before_ours(installed: Path) -> None:
    path = tuning.path_of(TINY.name, None)
    assert path == _results(installed) / "published" / "tuning" / "tiny-cpu-none.json"
    brought = tuning.load(path)
    assert brought is not None
    assert not path.exists()
    megatron = brought.systems["megatron"]
    best = tuning.fastest(megatron.points)
    assert best is not None
    single = tuning.SystemTuning(
        date="today",
        machine="mine",
        commit="abc",
        dirty=False,
        versions={},
        points=[best],
    )
    assert tuning.save(TINY.with_device_memory(None), {"megatron": single}) == path
    own = tuning.load(path)
    assert own is not None
    assert own.systems["megatron"] == single
    assert own.systems["deepspeed"] == brought.systems["deepspeed"], "systems not measured stay"


def test_searches_see_grids_of_both_folders(installed: Path) -> None:
    limit = TINY.device_memory_bytes
    assert limit is not None
    assert known_grids.fit_under("megatron", TINY, limit)
    folder = tuning.path_of(TINY.name, None).parent
    names = [path.name for path in store.readable_files(folder, "tiny-cpu-*.json")]
    assert names == ["tiny-cpu-136MiB.json", "tiny-cpu-4rank-none.json", "tiny-cpu-none.json"]
    folder.mkdir(parents=True)
    (folder / "tiny-cpu-1MiB.json").write_text("{}")
    (folder / "tiny-cpu-none.json").write_text("{}")
    paths = {path.name: path.parent for path in store.readable_files(folder, "tiny-cpu-*.json")}
    assert len(paths) == 4
    assert paths["tiny-cpu-1MiB.json"] == paths["tiny-cpu-none.json"] == folder
    assert paths["tiny-cpu-136MiB.json"] == store.PACKAGED / "published" / "tuning"


def test_the_papers_numbers_and_expected_values_are_brought(installed: Path) -> None:
    reported._reported.cache_clear()
    assert len(reported.points()) == 15
    directory = expected.default_directory()
    assert directory == _results(installed) / "expected"
    assert expected.read(directory, "plans-unit-costs").cases
    assert not directory.exists()


def test_a_measured_profile_is_saved_with_the_user_and_known_by_its_name(
    installed: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def measure(arguments: list[str]) -> tuple[int, str]:
        shutil.copy(hardware.PROFILES / "cpu-2core.json", arguments[-1])
        return 0, ""

    monkeypatch.setattr(profile, "launch", measure)
    assert main(["profile", "mine", "--json"]) == 0
    path = installed / "data" / "sppo-suite" / "hardware_profiles" / "mine.json"
    assert json.loads(capsys.readouterr().out)["path"] == str(path)
    assert hardware.known_profiles() == sorted(
        ["mine", *(entry.stem for entry in hardware.PROFILES.glob("*.json"))]
    )
    assert hardware.load_hardware("mine") == replace(
        hardware.load_hardware("cpu-2core"), name="mine"
    )
    assert main(["profile", "mine"]) == 2
    assert main(["profile", "cpu-2core"]) == 2
    assert "a profile cpu-2core exists" in capsys.readouterr().err
