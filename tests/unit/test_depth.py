"""Estimates of a whole model from models of few layers, and the searches that ask them."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
import pytest

from baselines.deepspeed.settings import DeepSpeedSettings
from baselines.megatron.settings import MegatronSettings
from baselines.protocol import Role
from baselines.registry import load
from benchmarks.emulation import memory_figure, tables
from benchmarks.emulation.depth import progress
from benchmarks.emulation.depth.bound import least_seconds
from benchmarks.emulation.depth.budget import SearchBudget
from benchmarks.emulation.depth.cuts import cuts_of, pipeline_stages, virtual_stages
from benchmarks.emulation.depth.extrapolate import NotAlike, check_peak, extrapolated
from benchmarks.emulation.depth.fastest import fastest
from benchmarks.emulation.depth.longest import longest
from benchmarks.emulation.depth.whole_peaks import WholePeaks
from benchmarks.emulation.emulator import Emulator, judged
from benchmarks.emulation.result import Emulation, RoleReport, failed
from benchmarks.emulation.search import STEP_TOKENS, Searcher, SearchResult, leanest
from benchmarks.launch.progress import Lines
from benchmarks.workloads import of_flags
from sppo.config.hardware import load_hardware
from tests.unit.made_up_ranks import STATE_BYTES, MadeUpRanks, Peak, counts, recomputed

WORKLOAD = of_flags(
    model="gpt-7b", seq="1M", gpus=32, hardware="a100-80g", device_memory="79.15GiB"
)
LAYERS = WORKLOAD.model.layers
ROOM_BYTES = (WORKLOAD.device_memory_bytes or 0) - STATE_BYTES
PEERS = ("deepspeed", "megatron", "native")


@pytest.fixture(autouse=True)
def no_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory_figure, "draw", lambda *about: None)


def recomputed_layers(settings: Any) -> int:
    """Of a model chunk; 0 where the settings treat all layers alike."""
    names = ("recompute_layers", "checkpointed_layers")
    return next((count for name in names if (count := getattr(settings, name, 0))), 0)


@pytest.mark.parametrize("sequences", [1, 8])
@pytest.mark.parametrize("system", PEERS)
def test_counts_of_the_cut_models_add_up_to_the_whole(system: str, sequences: int) -> None:
    """Of every point of a grid: constants, layers, and recomputed layers."""
    workload = replace(WORKLOAD, sequences_per_step=sequences)
    cut = 0
    for settings in load(system).grid(workload):
        cuts = cuts_of(workload, settings)
        if cuts is None:
            continue
        cut += 1
        parts = cuts.parts
        chunks = pipeline_stages(settings) * virtual_stages(settings)
        assert sum(part.factor for part in parts) == 1
        assert sum(part.factor * part.layers for part in parts) == LAYERS
        assert all(part.layers % chunks == 0 for part in parts)
        again = recomputed_layers(settings)
        assert again == sum(part.factor * recomputed_layers(part.settings) for part in parts)
        load(system).check(parts[0].workload, parts[0].settings)
        assert cuts.check is not None
        assert cuts.check.layers == sum(
            factor * part.layers for factor, part in zip(cuts.expected, parts, strict=True)
        )
    assert cut > 10


def test_settings_with_another_count_share_their_models() -> None:
    def models(count: int) -> set[tuple[int, int]]:
        settings = MegatronSettings(
            tensor_parallel=8, context_parallel=4, recompute="block", recompute_layers=count
        )
        cuts = cuts_of(WORKLOAD, settings)
        assert cuts is not None
        return {(part.layers, part.settings.recompute_layers) for part in cuts.parts}

    assert models(8) == models(24) == {(2, 1), (3, 1), (3, 2)}
    assert models(1) == {(2, 1), (3, 1)}
    assert models(31) == {(2, 1), (3, 2)}
    every = cuts_of(WORKLOAD, DeepSpeedSettings(sequence_parallel=32, checkpointing="blocks"))
    assert every is not None
    assert [part.layers for part in every.parts] == [2, 3]


def test_a_model_of_few_layers_is_not_cut() -> None:
    settings = MegatronSettings(tensor_parallel=4, pipeline_parallel=8, recompute="full")
    assert cuts_of(WORKLOAD, settings) is None


def report(**values: int) -> RoleReport:
    counted = counts(values.pop("peak_bytes", 0), **values)
    return RoleReport(role="all", rank=0, ranks=8, status="ok", flops=counted.flops, counts=counted)


def test_counts_are_extrapolated_on_a_line() -> None:
    two = report(peak_bytes=50, attention=200, again=20, calls=6)
    three = report(peak_bytes=60, attention=300, again=30, calls=8)
    whole = extrapolated([(-29, two), (30, three)])
    assert whole.counts == counts(350, attention=3200, again=320, calls=66)
    assert whole.peak_device_bytes == 350


@pytest.mark.parametrize(
    ("three", "words"),
    [
        (report(peak_bytes=60, attention=300), "other kinds"),
        (report(peak_bytes=10, attention=300, calls=7), "fewer at a greater depth"),
    ],
)
def test_layers_that_are_not_alike_are_said(three: RoleReport, words: str) -> None:
    two = report(peak_bytes=50, attention=200, calls=6)
    with pytest.raises(NotAlike, match=words):
        extrapolated([(-29, two), (30, three)])


@pytest.mark.parametrize("deeper", [69, 70, 90])
def test_a_peak_is_checked_by_a_further_model(deeper: int) -> None:
    """50 and 60 GiB give 70 GiB at least: a peak is convex in the layers."""
    parts = [(-1, report(peak_bytes=50 << 30)), (2, report(peak_bytes=60 << 30))]
    check = report(peak_bytes=deeper << 30)
    if deeper >= 70:
        check_peak(check, parts)
        return
    with pytest.raises(NotAlike, match="a deeper model holds less than expected"):
        check_peak(check, parts)


def test_the_least_time_of_a_pipeline_has_its_idle_time() -> None:
    profile = load_hardware("a100-80g")
    flat = MegatronSettings(tensor_parallel=8, context_parallel=4)
    deep = MegatronSettings(tensor_parallel=8, pipeline_parallel=4)
    four = replace(WORKLOAD, sequences_per_step=4)
    assert least_seconds(WORKLOAD, flat, profile) == pytest.approx(187.1, rel=0.01)
    work = least_seconds(four, replace(flat, context_parallel=1, pipeline_parallel=4), profile)
    assert work == pytest.approx(least_seconds(four, deep, profile))
    ranks = DeepSpeedSettings(sequence_parallel=32)
    assert least_seconds(WORKLOAD, ranks, profile) == least_seconds(WORKLOAD, flat, profile)


def searcher(ranks: MadeUpRanks, folder: Path, system: str = "megatron") -> Searcher:
    emulator = Emulator(
        parent=folder,
        time_limit_seconds=1.0,
        stop_at_first_oom=True,
        progress=Lines(io.StringIO()),
        run_rank=ranks.emulate_rank,
    )
    return Searcher(workload=WORKLOAD, system=system, emulator=emulator.for_search(folder))


def by_layers(settings: Mapping[str, Any], layers: int, tokens: int) -> int:
    """At 1M tokens and TP 8: 10 GiB a layer, 1 GiB a layer that is recomputed."""
    width = 1 if settings["tensor_parallel"] == 8 else 9
    again = recomputed(settings, layers)
    return width * ((layers - again) * 10 + again) * 2**10 * tokens


@dataclass(frozen=True, kw_only=True)
class Searched:
    """A search of the whole grid, and the ranks that it has asked."""

    folder: Path
    ranks: MadeUpRanks
    result: SearchResult


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Searched:
    folder = tmp_path_factory.mktemp("searched")
    ranks = MadeUpRanks(peak=by_layers)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(memory_figure, "draw", lambda *about: None)
        result = fastest(searcher(ranks, folder), SearchBudget())
    return Searched(folder=folder, ranks=ranks, result=result)


def test_the_fastest_that_fits_is_run_whole_and_nothing_else(searched: Searched) -> None:
    """28 layers of 1 GiB and four of 10 GiB fit."""
    result, ranks = searched.result, searched.ranks
    assert result.found is not None
    assert result.found.settings["recompute_layers"] == 28
    assert result.found.settings["tensor_parallel"] == 8
    whole = [trial for trial in result.trials if trial.emulated == "whole"]
    assert [trial.settings_text for trial in whole] == [result.found.settings_text]
    assert whole[0].extrapolated_peak_device_bytes == whole[0].peak_device_bytes
    assert whole[0].extrapolated_step_seconds == pytest.approx(whole[0].step_seconds)
    assert len(ranks.whole(LAYERS)) == len(result.found.roles), "the checks found no fault"
    others = [trial for trial in result.trials if trial.emulated == "extrapolated"]
    assert {tuple(trial.layers) for trial in others} >= {(2, 3)}
    assert {"ok", "oom"} == {trial.status for trial in others}
    assert len(ranks.asked) < len(others), "settings share their models"


def test_layouts_that_cannot_win_are_not_emulated(searched: Searched) -> None:
    result = searched.result
    assert result.found is not None
    assert result.found.simulated_time is not None
    seconds = result.found.simulated_time.step_seconds
    assert result.skipped
    assert all((skipped.at_least_seconds or 0) >= seconds for skipped in result.skipped)
    tried = {trial.settings_text for trial in result.trials}
    assert not tried & {skipped.settings_text for skipped in result.skipped}
    assert len(tried) + len(result.skipped) == len(load("megatron").grid(WORKLOAD))
    assert f"{len(result.skipped):,} settings need no emulation" in tables.remarks(result)[-1]


def test_the_table_names_what_was_extrapolated(searched: Searched) -> None:
    result = searched.result
    lines = tables.trials(result).splitlines()
    assert "emulated" in lines[0]
    assert lines[2].rstrip(" |").endswith("whole")
    assert "extrapolated from 2 and 3 layers" in tables.trials(result)
    assert f"{len(result.trials) - tables.SHOWN_TRIALS:,} more in search.json" in lines[-1]


def test_a_stopped_search_emulates_nothing_twice(searched: Searched) -> None:
    again = MadeUpRanks(peak=by_layers)
    second = fastest(searcher(again, searched.folder), SearchBudget())
    assert searched.ranks.asked
    assert again.asked == []
    assert second.trials == searched.result.trials


def test_a_winner_that_does_not_fit_whole_gives_way_to_the_next(tmp_path: Path) -> None:
    """The estimate is a lower bound: the whole model may hold more."""

    def steeper(settings: Mapping[str, Any], layers: int, tokens: int) -> int:
        more = (8 << 30) if layers == LAYERS and settings["recompute_layers"] == 28 else 0
        return by_layers(settings, layers, tokens) + more

    ranks = MadeUpRanks(peak=steeper)
    result = fastest(searcher(ranks, tmp_path), SearchBudget())
    whole = [trial for trial in result.trials if trial.emulated == "whole"]
    assert [trial.status for trial in whole][-2:] == ["oom", "ok"]
    assert result.found is not None
    assert result.found.settings["recompute_layers"] == 29
    first = whole[0]
    assert first.peak_device_bytes == (first.extrapolated_peak_device_bytes or 0) + (8 << 30)


def test_three_whole_models_drop_the_settings_between_them_and_the_first_that_fits(
    tmp_path: Path,
) -> None:
    """Models of few layers have their peak in the head, the whole one in its layers."""

    def head_first(settings: Mapping[str, Any], layers: int, tokens: int) -> int:
        return max(50 * 2**30, by_layers(settings, layers, tokens))

    result = fastest(searcher(MadeUpRanks(peak=head_first), tmp_path), SearchBudget())
    assert result.found is not None
    assert result.found.settings["recompute_layers"] == 28
    chosen = result.found.settings | {"recompute_layers": 1}
    adapter = load("megatron")
    counts_of = {
        adapter.describe(settings): settings.recompute_layers
        for settings in adapter.grid(WORKLOAD)
        if settings.recompute_layers
        and msgspec.to_builtins(replace(settings, recompute_layers=1)) == chosen
    }
    tried = {
        counts_of[trial.settings_text]: trial
        for trial in result.trials
        if trial.settings_text in counts_of
    }
    whole = [count for count, trial in tried.items() if trial.emulated == "whole"]
    assert whole == [1, 2, 3, 28], "in the order of their time"
    for count in range(4, 28):
        trial = tried[count]
        assert (trial.status, trial.emulated) == ("oom", "extrapolated")
        assert trial.reason.endswith("by whole models with smaller counts of layers")
        assert trial.peak_device_bytes == STATE_BYTES + (32 * 10 - 9 * count) * 2**30


def emulated(settings: MegatronSettings, peaks: Mapping[str, int]) -> Emulation:
    roles = [
        msgspec.structs.replace(report(peak_bytes=peak << 30), role=name)
        for name, peak in peaks.items()
    ]
    return judged(WORKLOAD, load("megatron"), settings, roles)


def test_peaks_of_whole_models_bound_those_of_more_recomputed_layers() -> None:
    """The line through the two nearest counts below, of the fullest role of both."""
    first = MegatronSettings(
        tensor_parallel=8, context_parallel=4, recompute="block", recompute_layers=2
    )
    second, third, fourth = (replace(first, recompute_layers=count) for count in (4, 6, 9))
    peaks = WholePeaks()
    peaks.note(first, emulated(first, {"a": 100, "b": 120}))
    peaks.note(second, emulated(second, {"a": 98, "b": 90}))
    assert peaks.least_bytes(WORKLOAD, fourth) is None, "nothing checks two"
    peaks.note(third, emulated(third, {"a": 96, "b": 80}))
    assert peaks.least_bytes(WORKLOAD, fourth) == ("a", 93 << 30)
    assert peaks.least_bytes(WORKLOAD, third) is None, "counts below alone"
    other = replace(fourth, sequence_parallel=not fourth.sequence_parallel)
    assert peaks.least_bytes(WORKLOAD, other) is None
    assert peaks.least_bytes(replace(WORKLOAD, sequence_tokens=1024), fourth) is None
    everything = replace(fourth, recompute_layers=LAYERS)
    assert peaks.least_bytes(WORKLOAD, everything) is None, "no layer is saved"


def test_peaks_that_are_not_convex_bound_nothing() -> None:
    """Buffers fill up with the second recomputed layer: the slope says too much."""
    peaks = WholePeaks()
    for count, peak in ((1, 80), (2, 90), (3, 80)):
        settings = MegatronSettings(
            tensor_parallel=8, context_parallel=4, recompute="block", recompute_layers=count
        )
        peaks.note(settings, emulated(settings, {"a": peak}))
    later = replace(settings, recompute_layers=9)
    assert peaks.least_bytes(WORKLOAD, later) is None


def test_a_dropped_setting_whose_buffers_fill_up_is_emulated_whole(tmp_path: Path) -> None:
    """Without recomputation two layers fill all buffers: by a line 300 GiB, in truth 30."""

    def filling(settings: Mapping[str, Any], layers: int, tokens: int) -> int:
        if settings["recompute"] == "none":
            return min(layers, 3) * 10 * 2**30
        return by_layers(settings, layers, tokens)

    result = fastest(searcher(MadeUpRanks(peak=filling), tmp_path), SearchBudget())
    assert result.found is not None
    assert result.found.settings["recompute"] == "none"
    assert result.found.roles[0].peak_device_bytes == STATE_BYTES + 30 * 2**30


def test_settings_whose_layers_are_not_alike_are_emulated_whole(tmp_path: Path) -> None:
    def odd(settings: Mapping[str, Any], layers: int) -> int:
        return 0 if layers == 2 and settings["recompute"] == "full" else layers

    ranks = MadeUpRanks(peak=by_layers, messages=odd)
    search = searcher(ranks, tmp_path)
    result = fastest(search, SearchBudget())
    full = {trial.emulated for trial in result.trials if "full recompute" in trial.settings_text}
    assert full == {"whole"}
    notes = search.emulator.progress.stream
    assert isinstance(notes, io.StringIO)
    assert "emulated whole, because of communication: other kinds" in notes.getvalue()


def test_full_recomputation_with_chunks_beats_less_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Four stages and sequences: without chunks 7 turns of 3, with four chunks 4.75 turns of 4."""
    one = MegatronSettings(tensor_parallel=8, pipeline_parallel=4)
    mlp = replace(one, recompute="modules", recompute_modules=("mlp",))
    four_full = replace(one, virtual_pipeline=4, recompute="full")
    grid = (replace(one, virtual_pipeline=4), one, mlp, four_full, replace(one, recompute="full"))

    def only_these_fit(settings: Mapping[str, Any], layers: int, tokens: int) -> int:
        saves = settings["recompute"] != "none"
        return layers * (1 if saves else 100) * 2**30

    monkeypatch.setattr(type(load("megatron")), "grid", lambda adapter, workload: grid)
    search = searcher(MadeUpRanks(peak=only_these_fit), tmp_path)
    search.workload = replace(WORKLOAD, sequences_per_step=4)
    result = fastest(search, SearchBudget())
    assert result.found is not None
    assert result.found.settings_text == load("megatron").describe(four_full)
    assert result.found.simulated_time is not None
    least_seconds_of = {skip.settings_text: skip.at_least_seconds or 0 for skip in result.skipped}
    slower = least_seconds_of[load("megatron").describe(mlp)]
    assert slower > result.found.simulated_time.step_seconds


@pytest.mark.soak
def test_a_setting_that_breaks_is_reported(tmp_path: Path) -> None:
    class Broken(MadeUpRanks):
        def emulate_rank(self, role: Role, *about: Any) -> RoleReport:
            return failed(role, "timeout", "stopped after 1 s")

    result = fastest(searcher(Broken(peak=by_layers), tmp_path), SearchBudget())
    assert result.found is None
    assert "timeout: every rank, start: stopped after 1 s" in result.unanswered
    assert tables.remarks(result)[0].startswith("not answered, so more may fit: ")


def test_a_search_ends_with_its_budget_and_says_what_was_not_tried(tmp_path: Path) -> None:
    ranks = MadeUpRanks(peak=by_layers)
    budget = SearchBudget(seconds=1.0, begun=-1e9)
    result = fastest(searcher(ranks, tmp_path), budget)
    assert (result.found, result.trials, ranks.asked) == (None, [], [])
    assert len(result.not_tried) == len(load("megatron").grid(WORKLOAD))
    (line,) = tables.remarks(result)
    assert line.startswith("not tried, the budget was over: ")
    assert f"and {len(result.not_tried) - tables.SHOWN_SETTINGS:,} more in search.json" in line
    assert "nothing that was tried fits" in tables.answer(result)


def test_the_last_share_of_a_budget_is_for_the_answer() -> None:
    assert not SearchBudget().is_over_for_estimates
    with_half_left = SearchBudget(seconds=2e9, begun=-1e9)
    assert not with_half_left.is_over_for_estimates
    with_a_third_left = SearchBudget(seconds=1.5e9, begun=-1e9)
    assert with_a_third_left.is_over_for_estimates
    assert with_a_third_left.left_seconds > 0


def longest_of(peak: Peak, folder: Path, most: int = 8 * 2**20) -> SearchResult:
    return longest(searcher(MadeUpRanks(peak=peak), folder), most, SearchBudget())


def test_the_longest_is_found_to_the_step_and_run_whole(tmp_path: Path) -> None:
    """TP8 PP4: eight layers a stage, each recomputed."""
    result = longest_of(lambda *about: 4 * by_layers(*about), tmp_path)
    assert result.longest_tokens == ROOM_BYTES // (4 * 8 * 2**10) // STEP_TOKENS * STEP_TOKENS
    assert result.found is not None
    assert result.found.settings["pipeline_parallel"] == 4
    assert len(result.found.roles) == 4
    whole = {trial.tokens: trial.status for trial in result.trials if trial.emulated == "whole"}
    assert whole[result.longest_tokens] == "ok"
    assert whole[result.longest_tokens + STEP_TOKENS] == "oom"
    assert result.skipped, "layouts whose memory ends much earlier"


def test_no_more_is_asked_than_allowed(tmp_path: Path) -> None:
    result = longest_of(lambda *about: 0, tmp_path, 2**20)
    assert result.longest_tokens == result.at_most_tokens == 2**20
    assert "no more were asked for" in tables.answer(result)


@pytest.mark.soak
def test_nothing_that_fits_is_zero(tmp_path: Path) -> None:
    result = longest_of(lambda *about: 1 << 40, tmp_path, 2**20)
    assert (result.longest_tokens, result.found) == (0, None)


def test_the_leanest_treat_all_layers_alike() -> None:
    for system in PEERS:
        adapter = load(system)
        for settings in leanest(adapter, WORKLOAD, 10):
            assert not recomputed_layers(settings)


def test_a_terminal_has_a_bar() -> None:
    with progress.bar("settings", 3) as advance:
        advance()
        (task,) = advance.func.__self__.tasks  # type: ignore[attr-defined]
    assert (task.completed, task.total) == (1, 3)


def test_lines_of_progress_say_the_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    clock = iter((0.0, 4.0, 12.0, 40.0))
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    with progress.countdown(Lines(stream), "settings", 3) as advance:
        for _ in range(3):
            advance()
    assert stream.getvalue() == "settings: 2 of 3, about 6 s left\n"
