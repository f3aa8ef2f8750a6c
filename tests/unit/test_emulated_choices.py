"""The settings of a row from committed emulations, where no grid was measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest

from baselines import registry
from baselines.native.settings import NativeSettings
from benchmarks.cli import main
from benchmarks.commands.planning import emulate_search
from benchmarks.emulation import search as searches
from benchmarks.emulation.result import Emulation, RoleReport, SimulatedTime
from benchmarks.emulation.search import SearchResult
from benchmarks.paper import verdicts
from benchmarks.paper.verdicts import PaperPoints, Verdict
from benchmarks.records import store
from benchmarks.records.store import RecordError
from benchmarks.rows import emulated_choices, known_grids, tuning
from benchmarks.rows.assign import assign
from benchmarks.rows.row import ROWS
from benchmarks.rows.tuning import GridPoint, SystemTuning
from benchmarks.workloads import find
from sppo.config.sizes import GIB
from sppo.config.workload import Workload

NATIVE = next(row for row in ROWS if row.system == "native")
WORKLOAD = find("gpt-7b-1m-32xa100")
FAST = NativeSettings(sequence_parallel=32, checkpointing="save-messages")
SLOW = NativeSettings(sequence_parallel=32, checkpointing="full")
ENVIRONMENT: dict[str, Any] = {"commit": "c" * 40, "dirty": False, "versions": {}}


@pytest.fixture(autouse=True)
def published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Nothing committed but what a test writes."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(store, "published_directory", lambda: tmp_path / "results" / "published")
    return tmp_path / "results" / "published"


def builtins(settings: NativeSettings) -> dict[str, Any]:
    values: dict[str, Any] = msgspec.to_builtins(settings)
    return values


def verdict(chosen: NativeSettings, **changes: Any) -> Verdict:
    values: dict[str, Any] = {
        "model": "gpt-7b",
        "seq": "1024K",
        "gpus": 32,
        "rule_name": "PyTorch native, at its best",
        "system": "native",
        "settings_text": registry.load("native").describe(chosen),
        "status": "ok",
        "reason": "",
        "paper_outcome": None,
        "agrees": None,
        "counted": False,
        "peak_device_bytes": 70 * GIB,
        "peak_host_bytes": 0,
        "at_peak_by_kind_bytes": {},
        "capacity_bytes": WORKLOAD.device_memory_bytes,
        "limiting_role": "rank",
        "roles_emulated": 1,
        "roles": 1,
        "step_seconds": 192.1,
        "at_best": True,
        "trials": 24,
        "settings": builtins(chosen),
    }
    return Verdict(**{**values, **changes})


def save_points(
    rows: Sequence[Verdict], sequences: int = 1, name: str = "fig1", **environment: Any
) -> Path:
    points = PaperPoints(
        figure="1",
        hardware="a100-80g",
        sequences_per_step=sequences,
        rules={},
        step_tokens=16_384,
        verdicts=list(rows),
        longest=[],
        environment={**ENVIRONMENT, **environment},
    )
    return store.save(store.published_directory() / "emulation" / f"{name}.json", points)


def choice(workload: Workload = WORKLOAD) -> known_grids.Choice:
    return known_grids.choose("native", workload)


def test_a_row_takes_the_committed_choice_and_says_so() -> None:
    save_points([verdict(SLOW, at_best=False), verdict(FAST), verdict(SLOW, seq="512K")])
    row = assign(NATIVE, WORKLOAD)
    assert row.settings == builtins(FAST)
    assert row.tuned
    assert row.settings_text == registry.load("native").describe(FAST)
    assert row.grid.startswith(
        "emulated choice: fastest that fits of 24 points, by simulated times "
        "(emulation/fig1.json, commit ccccccccc)"
    )


def test_a_dry_run_shows_the_source(capsys: pytest.CaptureFixture[str]) -> None:
    save_points([verdict(FAST)])
    assert main(["run", WORKLOAD.name, "--systems", "native", "--dry-run"]) == 0
    output = capsys.readouterr().out
    assert "emulated choice: fastest that fits of 24 points" in output
    assert "untuned" not in output


def test_an_older_file_has_the_text_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its settings are the point of the grid with this text, if there is only one."""
    save_points([verdict(FAST, settings={})])
    assert choice().settings == builtins(FAST)
    text = registry.load("native").describe(FAST)
    monkeypatch.setattr(type(registry.load("native")), "describe", lambda *_: text)
    assert choice().settings is None


def test_every_text_of_the_grids_is_of_one_point() -> None:
    """So that older files name their settings exactly."""
    for system in ("native", "deepspeed", "megatron"):
        adapter = registry.load(system)
        texts = [adapter.describe(settings) for settings in adapter.grid(WORKLOAD)]
        assert len(set(texts)) == len(texts)


def test_a_measured_grid_comes_first() -> None:
    save_points([verdict(FAST)])
    point = GridPoint(
        settings=builtins(SLOW), settings_text="slow", status="ok", step_seconds_median=1.0
    )
    measured = SystemTuning(
        date="2026-11-24", machine="m", commit="b", dirty=False, versions={}, points=[point]
    )
    tuning.save(WORKLOAD, {"native": measured})
    assert choice().settings == builtins(SLOW)
    assert "the committed grid of m" in choice().source


@pytest.mark.parametrize(
    "changes",
    [
        {"model": "gpt-13b"},
        {"model": "a model of others"},
        {"gpus": 64},
        {"seq": "2M"},
        {"system": "deepspeed"},
        {"status": "oom"},
        {"at_best": False},
        {"search_file": "another.json"},
        {"step_seconds": None},
        {"peak_device_bytes": 77 * GIB},
        {"peak_host_bytes": 10**13},
        {"settings": {"no": "such settings"}},
        {"settings": builtins(NativeSettings(sequence_parallel=5))},
    ],
    ids=str,
)
def test_what_is_no_answer_for_the_workload_is_passed_over(changes: dict[str, Any]) -> None:
    save_points([verdict(FAST, **changes)])
    assert choice().settings is None
    assert choice().source.startswith("not tuned: no native in gpt-7b-1m-32xa100")


def test_ranks_on_other_nodes_are_another_place() -> None:
    """Degrees that fill a node here cross nodes there."""
    save_points([verdict(FAST)])
    other = replace(WORKLOAD, cluster=replace(WORKLOAD.cluster, nodes=8, ranks_per_node=4))
    assert choice().settings is not None
    assert choice(other).settings is None


def test_more_sequences_need_no_less_memory_and_are_named() -> None:
    save_points([verdict(FAST)], sequences=4)
    assert choice().settings == builtins(FAST)
    assert "24 points at 4 sequences a step, by simulated times" in choice().source
    save_points([verdict(SLOW, step_seconds=999.0)], name="fig2")
    assert choice().settings == builtins(SLOW)
    assert choice(replace(WORKLOAD, sequences_per_step=5)).settings is None


def test_another_limit_is_named() -> None:
    save_points([verdict(FAST)])
    assert "24 points under 76.65 GiB, by" in choice(_limited(75)).source
    assert choice(_limited(69)).settings is None
    assert choice(WORKLOAD.with_device_memory(None)).settings == builtins(FAST)


def _limited(gib: int) -> Workload:
    return WORKLOAD.with_device_memory(gib * GIB)


def test_other_libraries_are_stale(monkeypatch: pytest.MonkeyPatch) -> None:
    save_points([verdict(FAST)], versions={"torch": "1.0"})
    monkeypatch.setattr(type(registry.load("native")), "versions", lambda self: {"torch": "2.0"})
    assert choice().source.endswith("; stale: torch 1.0, here 2.0")


def test_a_damaged_file_is_named() -> None:
    path = save_points([verdict(FAST)])
    path.write_bytes(path.read_bytes().replace(b'"trials": 24', b'"trials": "many"'))
    with pytest.raises(RecordError, match=r"fig1\.json.*restore the file"):
        choice()


def found(settings: NativeSettings, workload: Workload) -> Emulation:
    role = RoleReport(
        role="rank", rank=0, ranks=32, status="ok", peak_device_bytes=GIB, peak_host_bytes=0
    )
    time = SimulatedTime(
        profile="a100-80g",
        profile_kind="assumed",
        role="rank",
        step_seconds=2.0,
        step_seconds_if_hidden=1.0,
        compute_seconds=1.0,
        optimizer_seconds=0.0,
        communication_seconds={},
        idle_share=0.0,
        tokens_per_second=1.0,
        tokens_per_second_per_gpu=1.0,
        mfu=0.5,
        mfu_if_hidden=0.5,
        assumptions=[],
    )
    return Emulation(
        workload=workload,
        system="native",
        settings=builtins(settings),
        settings_text="fast",
        status="ok",
        fits=True,
        reason="",
        limiting_role="rank",
        capacity_bytes=workload.device_memory_bytes,
        host_capacity_bytes=None,
        roles=[role],
        simulated_time=time,
        environment=ENVIRONMENT,
    )


def result(workload: Workload, emulation: Emulation | None, longest: int | None) -> SearchResult:
    return SearchResult(
        workload=workload,
        system="native",
        step_tokens=16_384,
        at_most_tokens=None,
        longest_tokens=longest,
        found=emulation,
        trials=[] if emulation is None else [searches.trial_of(emulation)],
        unanswered="",
    )


def test_a_published_search_is_found_under_any_name() -> None:
    """`emulate native --tuned --publish`, for a workload by flags or of a file too."""
    asked = replace(WORKLOAD, name="named-otherwise", sequence_tokens=16_384)
    made = msgspec.structs.replace(found(FAST, asked), directory="/here/alone")
    emulate_search.publish(result(asked, made, None), 0)
    (path,) = (store.published_directory() / "emulation").glob("*-tuned.json")
    assert "/here/alone" not in path.read_text()
    searched = choice(replace(asked, name="mine"))
    assert searched.settings == builtins(FAST)
    assert "1 points, by simulated times (emulation/named-otherwise-" in searched.source


def test_the_answer_of_a_search_is_that_of_a_whole_search_for_the_same_question() -> None:
    """Not of a file of the paper's points, and not of a search that left settings out."""
    save_points([verdict(SLOW)])
    assert emulated_choices.answer_of_search("native", WORKLOAD) is None
    whole = result(WORKLOAD, found(FAST, WORKLOAD), None)
    for changes in ({"not_tried": ["another"]}, {"unanswered": "a rank broke"}):
        emulate_search.publish(msgspec.structs.replace(whole, **changes), 0)
        assert emulated_choices.answer_of_search("native", WORKLOAD) is None
    emulate_search.publish(whole, 0)
    answer = emulated_choices.answer_of_search("native", WORKLOAD)
    assert answer is not None
    assert answer.settings == builtins(FAST)
    for other in (_limited(70), replace(WORKLOAD, sequences_per_step=2)):
        assert emulated_choices.answer_of_search("native", other) is None
    assert emulated_choices.answer_of_search("deepspeed", WORKLOAD) is None


def test_what_a_search_does_not_answer_is_not_published(published: Path) -> None:
    emulate_search.publish(result(WORKLOAD, None, None), 1)
    assert not published.exists()
    emulate_search.publish(result(WORKLOAD, found(FAST, WORKLOAD), 2**20), 0)
    assert choice().settings is None  # the answer of another question: the longest sequence


@pytest.mark.parametrize(
    "flags", [[], ["--tuned", "--longest"], ["--tuned", "--stale"]], ids=" ".join
)
def test_only_whole_answers_are_published(
    flags: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["emulate", "native", WORKLOAD.name, "--publish", *flags]) == 2
    assert capsys.readouterr().err.startswith("error: --publish")


def test_the_schemas_are_those_of_the_writers() -> None:
    assert emulated_choices.POINTS_SCHEMA == verdicts.SCHEMA
    assert emulated_choices.SEARCH_SCHEMA == searches.SCHEMA
