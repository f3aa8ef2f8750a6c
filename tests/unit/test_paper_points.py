"""The paper's points: what it says of each system, and the count of what agrees."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest

from baselines import registry
from benchmarks.cli import main
from benchmarks.emulation.emulator import Emulator
from benchmarks.emulation.result import Emulation, Planned
from benchmarks.emulation.search import EmulationTrial, Searcher, SearchResult
from benchmarks.job import Status
from benchmarks.paper import boundaries_figure, boundaries_report, reported
from benchmarks.paper.boundaries import PaperComparison
from benchmarks.paper.layout_rules import LAYOUT_RULES, LayoutRule, Outcome
from benchmarks.paper.reported import ReportedPoint
from benchmarks.paper.verdicts import LongestVerdict, PaperPoints, Verdict, outcome_of
from benchmarks.records import store
from sppo.config.sizes import GIB, parse_tokens

PAPER_RULES = [rule for rule in LAYOUT_RULES if "paper" in rule.readings]
BEST_RULES = [rule for rule in LAYOUT_RULES if "best" in rule.readings]


def point(model: str, seq: str) -> ReportedPoint:
    return next(point for point in reported.points() if (point.model, point.seq) == (model, seq))


def verdicts(
    rule: LayoutRule, point: ReportedPoint, folder: Path, sequences_per_step: int
) -> list[Verdict]:
    """Emulated, which is refused before any process starts."""
    comparison = PaperComparison(
        rules=[rule],
        points=[point],
        emulator=Emulator(parent=folder, time_limit_seconds=1.0),
        sequences_per_step=sequences_per_step,
    )
    return list(comparison.verdicts())


@pytest.mark.parametrize(
    ("model", "seq", "words"),
    [
        ("gpt-7b", "896K", ("fits", "fits", "fits", None, "fits")),
        ("gpt-7b", "1024K", ("oom", "fits", "fits", None, "fits")),
        ("gpt-13b", "768K", ("fits", "fits", "cannot run", None, "fits")),
        ("gpt-13b", "1280K", ("oom", "oom", "cannot run", None, "fits")),
        ("gpt-65b", "512K", ("fits", None, "cannot run", "fits", "fits")),
        ("gpt-65b", "600K", ("fits", None, "cannot run", "oom", "fits")),
        ("gpt-65b", "1024K", ("oom", None, "cannot run", "oom", "fits")),
    ],
)
def test_what_the_paper_says(model: str, seq: str, words: tuple[Outcome | None, ...]) -> None:
    assert tuple(rule.paper_outcome(point(model, seq)) for rule in PAPER_RULES) == words


def test_there_are_fifteen_points_and_one_rule_a_row() -> None:
    assert len(reported.points()) == 15
    assert len({rule.rule for rule in LAYOUT_RULES}) == len(LAYOUT_RULES)
    assert len(PAPER_RULES) == 5


def test_each_system_has_a_row_at_its_best() -> None:
    systems = ["sppo", "megatron", "deepspeed", "native", "megatron-ours", "deepspeed-ours"]
    assert [rule.system for rule in BEST_RULES] == systems
    assert [rule.is_searched for rule in BEST_RULES] == [False, True, True, True, True, True]
    assert [rule.system for rule in BEST_RULES if rule.by_name_only] == systems[4:]
    assert not any(rule.counted for rule in BEST_RULES if rule.is_searched)


def test_the_rules_give_the_paper_s_degrees() -> None:
    same, tuned, deepspeed, by_heads, _ = PAPER_RULES
    large = point("gpt-65b", "512K")
    assert (same.settings(large).tensor_parallel, same.settings(large).pipeline_parallel) == (16, 8)
    assert tuned.settings(large).tensor_parallel == 64
    assert tuned.settings(large).pipeline_parallel == 2
    assert deepspeed.settings(large).sequence_parallel == 128
    assert by_heads.settings(large).sequence_parallel == 64
    assert deepspeed.settings(point("gpt-7b", "512K")).sequence_parallel == 32


@pytest.mark.parametrize(("model", "seq"), [("gpt-13b", "512K"), ("gpt-65b", "512K")])
def test_what_cannot_run_is_refused_in_the_library_s_words(
    model: str, seq: str, tmp_path: Path
) -> None:
    """No process is started for it."""
    deepspeed = LAYOUT_RULES[2]
    (result,) = verdicts(deepspeed, point(model, seq), tmp_path, 4)
    assert (result.status, result.paper_outcome, result.agrees) == (
        "unavailable",
        "cannot run",
        True,
    )
    assert "head count" in result.reason
    assert (result.roles, result.roles_emulated) == (0, 0)


def test_what_does_not_divide_is_no_verdict(tmp_path: Path) -> None:
    """One sequence a step does not divide over two replicas; another number would."""
    (result,) = verdicts(LAYOUT_RULES[3], point("gpt-65b", "512K"), tmp_path, 1)
    assert (result.paper_outcome, result.agrees) == ("fits", None)
    assert "2 replicas" in result.reason


def test_the_paper_s_longest(tmp_path: Path) -> None:
    assert [rule.paper_longest(32) for rule in PAPER_RULES] == [
        None,
        1024**2,
        1024**2,
        None,
        parse_tokens("1.3M"),
    ]
    assert LAYOUT_RULES[2].paper_longest(64) == 0, "cannot run"


def test_the_large_points_have_the_paper_s_tensor_parallelism_and_more_stages() -> None:
    large = reported.large_points()
    assert [(point.seq, point.gpus) for point in large] == [("1024K", 32), ("2M", 64), ("4M", 128)]
    assert [point.pipeline_parallel for point in large] == [4, 8, 16]
    assert [point.tuned_megatron for point in large] == [(32, 1), (32, 2), (32, 4)]


def test_fig_12_says_how_peers_end_at_the_large_points() -> None:
    """The first large point is in table 4."""
    first, *others = reported.large_points()
    same, tuned, deepspeed, by_heads, sppo = PAPER_RULES
    assert (same.paper_outcome(first), tuned.paper_outcome(first)) == ("oom", "fits")
    for place in others:
        assert tuned.paper_outcome(place) == "oom"
        assert deepspeed.paper_outcome(place) == "cannot run"
        assert sppo.paper_outcome(place) == "fits"
        assert (same.paper_outcome(place), by_heads.paper_outcome(place)) == (None, None)


def test_all_rows_may_be_asked_for(tmp_path: Path) -> None:
    """Fig. 1 shows rows on which the paper is silent and which count in no agreement."""
    comparison = PaperComparison(
        rules=[PAPER_RULES[3]],
        points=[reported.large_points()[1]],
        emulator=PlayedEmulator(parent=tmp_path, time_limit_seconds=1.0),
        sequences_per_step=4,
    )
    assert list(comparison.verdicts()) == []
    (shown,) = replace(comparison, all_rows=True).verdicts()
    assert (shown.rule_name, shown.agrees) == ("DeepSpeed, SP = heads", None)


def emulated(settings_text: str = "") -> Emulation:
    return Emulation(
        workload=point("gpt-7b", "512K").workload(sequences_per_step=4),
        system="megatron",
        settings={},
        settings_text=settings_text,
        status="ok",
        fits=True,
        reason="",
        limiting_role=None,
        capacity_bytes=None,
        host_capacity_bytes=None,
        roles=[],
    )


class PlayedEmulator(Emulator):
    """Only the named settings fit; nothing runs."""

    def emulate(self, workload: Any, system: str, settings: Any, *_: Any, **__: Any) -> Emulation:
        text = registry.load(system).describe(settings)
        if text == FITS:
            return emulated(text)
        changes = {"status": "oom", "fits": False, "reason": "too large"}
        return msgspec.structs.replace(emulated(text), **changes)


FITS = "TP8 PP4 SP, full recompute"


def best_of_megatron(folder: Path, emulator: type[Emulator]) -> Verdict:
    (rule,) = (rule for rule in BEST_RULES if rule.system == "megatron")
    comparison = PaperComparison(
        rules=[rule],
        points=[point("gpt-7b", "512K")],
        emulator=emulator(parent=folder, time_limit_seconds=1.0),
        sequences_per_step=4,
    )
    (best,) = comparison.verdicts()
    return best


def test_at_its_best_a_system_has_the_settings_that_the_search_has_chosen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The search itself has tests of its own."""

    def search(searcher: Searcher) -> SearchResult:
        for settings in searcher.adapter.grid(searcher.workload)[:3]:
            searcher.try_settings(settings, searcher.workload.sequence_tokens)
        return searcher.result(None, None, emulated(FITS))

    monkeypatch.setattr("benchmarks.paper.boundaries.search_grid", search)
    best = best_of_megatron(tmp_path, PlayedEmulator)
    assert (best.settings_text, best.status, best.at_best, best.trials) == (FITS, "ok", True, 3)
    assert (best.counted, best.agrees, best.paper_outcome) == (False, None, None)


@pytest.mark.parametrize(
    ("rule_name", "asked", "sequences", "file"),
    [
        ("Megatron", True, 1, "gpt-7b-512k-32xa100-megatron-tuned.json"),
        ("Megatron", False, 1, ""),
        ("Megatron", True, 4, ""),
        ("DeepSpeed", True, 1, "gpt-7b-512k-32xa100-deepspeed-tuned.json"),
    ],
)
def test_the_answer_of_a_committed_search_is_emulated_anew_if_asked(
    rule_name: str,
    asked: bool,
    sequences: int,
    file: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """No search is committed for four sequences a step."""

    def search(searcher: Searcher) -> SearchResult:
        return searcher.result(None, None, emulated("searched"))

    class Answering(Emulator):
        def emulate(
            self, workload: Any, system: str, settings: Any, *_: Any, **__: Any
        ) -> Emulation:
            return emulated(registry.load(system).describe(settings))

    monkeypatch.setattr("benchmarks.paper.boundaries.search_grid", search)
    comparison = PaperComparison(
        rules=[rule for rule in BEST_RULES if rule.name == f"{rule_name}, at its best"],
        points=[point("gpt-7b", "512K")],
        emulator=Answering(parent=tmp_path, time_limit_seconds=1.0),
        sequences_per_step=sequences,
        from_searches=asked,
    )
    (best,) = comparison.verdicts()
    assert best.search_file == file
    assert best.at_best
    if not file:
        assert best.settings_text == "searched"
        return
    committed = json.loads((store.published_directory() / "emulation" / file).read_bytes())
    assert best.settings_text == committed["found"]["settings_text"]
    assert best.trials == len(committed["trials"]) > 1


def test_a_committed_answer_that_fits_no_more_is_searched_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def search(searcher: Searcher) -> SearchResult:
        return searcher.result(None, None, emulated("searched"))

    class Full(Emulator):
        def emulate(self, *_: Any, **__: Any) -> Emulation:
            return msgspec.structs.replace(emulated(), status="oom", fits=False)

    monkeypatch.setattr("benchmarks.paper.boundaries.search_grid", search)
    comparison = PaperComparison(
        rules=[rule for rule in BEST_RULES if rule.system == "megatron"],
        points=[point("gpt-7b", "512K")],
        emulator=Full(parent=tmp_path, time_limit_seconds=1.0),
        sequences_per_step=1,
        from_searches=True,
    )
    (best,) = comparison.verdicts()
    assert (best.settings_text, best.search_file) == ("searched", "")


def test_the_text_says_how_many_rows_are_answers_of_committed_searches(
    figure: PaperPoints,
) -> None:
    first, *others = figure.verdicts
    answer = msgspec.structs.replace(first, at_best=True, search_file="a.json")
    searched = msgspec.structs.replace(first, at_best=True)
    changed = msgspec.structs.replace(figure, verdicts=[answer, searched, *others])
    words = "1 of 2 rows at their best: answers of committed searches"
    assert words in boundaries_report.text(changed)
    assert words[6:] not in boundaries_report.text(figure)


def test_where_nothing_fits_the_least_memory_is_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def search(searcher: Searcher) -> SearchResult:
        trials = [
            EmulationTrial(
                settings_text=f"layout {peak}",
                tokens=512 * 1024,
                status="oom",
                reason="too large",
                peak_device_bytes=peak * GIB,
                limiting_role="stage 0",
                step_seconds=None,
            )
            for peak in (90, 80, 85)
        ]
        searcher.trials.extend(trials)
        return searcher.result(None, None, None)

    monkeypatch.setattr("benchmarks.paper.boundaries.search_grid", search)
    best = best_of_megatron(tmp_path, Emulator)
    assert (best.settings_text, best.status, best.peak_device_bytes) == (
        "layout 80",
        "oom",
        80 * GIB,
    )
    assert (best.step_seconds, best.at_best, best.trials) == (None, True, 3)


def test_the_outcome_of_an_emulation() -> None:
    emulation = emulated()
    assert outcome_of(emulation) == "fits"
    changed = msgspec.structs.replace
    assert outcome_of(changed(emulation, status="host_oom", fits=False)) == "oom"
    assert outcome_of(changed(emulation, status="infeasible", fits=False)) == "oom"
    assert outcome_of(changed(emulation, status="unavailable", fits=None)) == "cannot run"
    assert outcome_of(changed(emulation, status="timeout", fits=None)) is None


def test_a_point_is_the_paper_s_cluster() -> None:
    workload = point("gpt-13b", "1280K").workload(sequences_per_step=4)
    assert workload.sequence_tokens == 1280 * 1024
    assert (workload.cluster.ranks, workload.cluster.nodes) == (64, 8)
    assert workload.sequences_per_step == 4
    assert workload.device_memory_bytes == round(79.15 * GIB) - round(2.5 * GIB)


def verdict(
    seq: str, rule_name: str, status: Status, outcome: Outcome | None, peak_gib: int
) -> Verdict:
    fits = {"ok": "fits", "oom": "oom"}.get(status)
    return Verdict(
        model="gpt-7b",
        seq=seq,
        gpus=32,
        rule_name=rule_name,
        system="megatron",
        settings_text="TP8 PP4",
        status=status,
        reason="",
        paper_outcome=outcome,
        agrees=None if outcome is None else outcome == fits,
        counted=rule_name != "beside",
        peak_device_bytes=peak_gib * GIB,
        peak_host_bytes=0,
        at_peak_by_kind_bytes={"activations": peak_gib * GIB},
        capacity_bytes=76 * GIB,
        limiting_role="stage 0",
        roles_emulated=4,
        roles=4,
        step_seconds=None,
    )


@pytest.fixture
def figure() -> PaperPoints:
    return PaperPoints(
        hardware="a100-80g",
        sequences_per_step=4,
        rules={"one": "its rule"},
        step_tokens=16 * 1024,
        verdicts=[
            verdict("512K", "one", "ok", "fits", 40),
            verdict("512K", "two", "ok", "oom", 50),
            verdict("640K", "one", "oom", "oom", 90),
            verdict("640K", "two", "oom", None, 91),
            verdict("640K", "beside", "oom", "fits", 92),
        ],
        longest=[
            LongestVerdict(
                gpus=32,
                rule_name="one",
                system="sppo",
                settings_text="SP 8 x PP 4",
                sequences_per_step=4,
                longest_tokens=2 * 1024**2,
                paper_tokens=1024**2,
                peak_device_bytes={"stage 0": 70 * GIB, "stage 1": 60 * GIB},
                peak_host_bytes={"stage 0": 200 * GIB, "stage 1": 200 * GIB},
                roles=4,
                beyond="host memory; and more",
                unanswered="",
            )
        ],
        environment={"commit": "abcdef0123", "dirty": False, "versions": {"torch": "2"}},
    )


def test_agreement_counts_what_the_paper_says_of_rows_that_count(figure: PaperPoints) -> None:
    assert boundaries_report.agreement(figure) == (
        "agree with the paper: 2 of 3 verdicts (one 2 of 2, two 0 of 1). All systems agree at "
        "1 of 2 points"
    )


def test_disagreements_are_explained_from_the_counts(figure: PaperPoints) -> None:
    text = boundaries_report.text(figure)
    words = "26.00 GiB to spare in stage 0. At the peak: activations 50.00 GiB"
    assert f"two: the paper says oom; {words}" in text
    assert "beside: the paper says fits; 16.00 GiB too much" in text
    assert "its rule" in text
    assert "commit abcdef012" in text


def test_the_longest_stands_beside_the_paper_s(figure: PaperPoints) -> None:
    line = next(row for row in boundaries_report.text(figure).splitlines() if "SP 8 x PP 4" in row)
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    assert cells[4:] == [
        "2M",
        "1M",
        "2.00x",
        "60.00 GiB to 70.00 GiB",
        "200.00 GiB",
        "2 of 4",
        "host memory",
    ]


def test_a_role_that_broke_is_no_disagreement(figure: PaperPoints) -> None:
    broken = msgspec.structs.replace(
        figure.verdicts[0], status="timeout", reason="too slow", agrees=None
    )
    text = boundaries_report.text(msgspec.structs.replace(figure, verdicts=[broken]))
    assert "512K, one: no verdict, timeout: too slow" in text
    assert "to spare" not in text


def test_speeds_stand_beside_sppo_s_with_and_without_idle_time(figure: PaperPoints) -> None:
    """Half of the peer's step is idle, and a fifth of SPPO's."""
    change = msgspec.structs.replace
    peer = change(
        figure.verdicts[0],
        at_best=True,
        step_seconds=300.0,
        step_seconds_if_hidden=200.0,
        idle_share=0.5,
    )
    sppo = change(
        figure.verdicts[0],
        rule_name="SPPO",
        system="sppo",
        step_seconds=100.0,
        step_seconds_if_hidden=80.0,
        idle_share=0.2,
    )
    too_large = change(figure.verdicts[2], seq="512K")
    lines = boundaries_report.text(change(figure, verdicts=[peer, sppo, too_large])).splitlines()
    start = next(number for number, line in enumerate(lines) if "step, exposed" in line)
    cells = [[cell.strip() for cell in line.strip("|").split("|")][3:] for line in lines[start:]]
    times = [row[2:] for row in cells]
    assert times[2] == ["300.0 s", "200.0 s", "50.0 %", "3.00x", "2.50x", "1.88x"]
    assert times[3] == ["100.0 s", "80.0 s", "20.0 %", "-", "-", "-"]
    assert times[4] == ["oom", "oom", "-", "-", "-", "-"]
    assert [row[0] for row in cells[2:5]] == ["at its best", "", "as the paper ran it"]


def test_a_panel_has_the_bars_of_its_gpus_and_of_systems_at_their_best(
    figure: PaperPoints, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Fig. 1 has one model on several numbers of GPUs."""
    change = msgspec.structs.replace
    first = figure.verdicts[0]
    best = change(first, rule_name="at its best", counted=False, at_best=True, agrees=None)
    larger = change(first, gpus=64, seq="2M")
    drawn: list[int] = []
    placed = boundaries_figure._placed

    def count(axes: Any, rows: list[Verdict], group: Any) -> Any:
        drawn.append(len(rows))
        return placed(axes, rows, group)

    monkeypatch.setattr(boundaries_figure, "_placed", count)
    boundaries_figure.draw(change(figure, verdicts=[first, best, larger]), tmp_path / "fig1.png")
    assert drawn == [2, 1]


def test_without_a_step_of_sppo_there_are_no_speeds(figure: PaperPoints) -> None:
    assert "exposed" not in boundaries_report.text(figure)


def test_the_figures_are_drawn(figure: PaperPoints, tmp_path: Path) -> None:
    for name, drawn in (("10", figure), ("12", msgspec.structs.replace(figure, verdicts=[]))):
        path = tmp_path / f"fig{name}.png"
        boundaries_figure.draw(drawn, path)
        assert path.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["--emulate", "--figures", "11"], "unknown figure '11'; known: 1, 10, 12"),
        (["--readings", "worst"], "unknown reading 'worst'; known: paper, best"),
        (["--publish", "--readings", "best"], "only whole figures"),
        (
            ["--publish", "--readings", "paper", "--figures", "10", "--sequences-per-step", "1"],
            "committed with rows at their best",
        ),
        (["--models", "gpt-5b"], "unknown model 'gpt-5b'; known: gpt-7b"),
        (["--systems", "fpdt"], "unknown system 'fpdt'; known: deepspeed"),
        (["--sequences-per-step", "0"], "must be positive"),
        (["--publish", "--models", "gpt-7b"], "only whole figures"),
        (["--publish", "--stale"], "stale counts are not published"),
    ],
)
def test_wrong_input_is_one_line(
    arguments: list[str], word: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["paper", *arguments]) == 2
    shown = capsys.readouterr().err
    assert word in shown
    assert shown.count("\n") == 1


@pytest.mark.parametrize(("kv_bytes", "words"), [(5, "exact"), (6, "1 of 2 numbers NOT exact")])
def test_plan_accuracy(figure: PaperPoints, kv_bytes: int, words: str) -> None:
    assert boundaries_report.plan_accuracy(figure) == ""
    planned = [
        Planned(role="stage", rank=rank, quantity=quantity, planned=said, counted=seen)
        for rank, quantity, said, seen in (
            (0, "peak_device_bytes", 101, 100),
            (0, "kv_bytes", 5, 5),
            (8, "peak_device_bytes", 200, 200),
            (8, "kv_bytes", 5, kv_bytes),
        )
    ]
    figure.verdicts[0] = msgspec.structs.replace(figure.verdicts[0], planned=planned)
    line = boundaries_report.plan_accuracy(figure)
    assert "2 roles" in line
    assert words in line
    assert line.endswith("device peak +0.00% to +1.00%")
    assert line in boundaries_report.text(figure)
