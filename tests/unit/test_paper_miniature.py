"""The paper in miniature: what is measured and kept, and what the panels say of it."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest

from benchmarks.cli import main
from benchmarks.commands.studies.paper_measurement import PaperMeasurement
from benchmarks.launch.progress import Lines
from benchmarks.paper.items import files, registry, throughput
from benchmarks.paper.items.miniature import fig7, fig10, fig11, fig12, signs
from benchmarks.paper.miniature import result, session, settings
from benchmarks.paper.miniature.emulated_peaks import emulated_peaks
from benchmarks.paper.miniature.places import Place, counts, places_of
from benchmarks.paper.miniature.result import LongestPlace, MeasuredFigure, MeasuredPlace
from benchmarks.paper.miniature.session import Clock
from benchmarks.records import store
from benchmarks.rows import known_grids
from benchmarks.rows.assign import grid_assignments
from benchmarks.rows.candidates import Candidates
from benchmarks.rows.row import Configuration
from benchmarks.studies import longest
from benchmarks.workloads import find
from sppo.config.sizes import MIB
from tests.unit.scripted_launches import launches, scripted
from tests.unit.test_figures import capture, check_words
from tests.unit.test_resume import only_folder
from tests.unit.test_sweep import FREE, GRID, assignment

RECORDED = Path(__file__).with_name("recorded_miniature")
"""A small measurement of every figure, in the shape of the committed one; its times are made up."""

MEASURE = ["paper", "--measure", "--miniature", "mini-cpu", "--figures", "11", "--launches", "2"]


@pytest.fixture(autouse=True)
def recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(result, "published", lambda figure: RECORDED / f"fig{figure}.json")


def measured(figure: str) -> MeasuredFigure:
    known = result.read(RECORDED / f"fig{figure}.json")
    assert known is not None
    return known


def measure(arguments: Sequence[str], parent: Path) -> int:
    with scripted(parent):
        return main([*arguments, "--output", str(parent)])


def test_a_stopped_measurement_goes_on_at_the_next_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = session.measure_place

    def stopped(place: Place, *about: Any) -> Any:
        if place.name == "no limit":
            raise KeyboardInterrupt
        return whole(place, *about)

    monkeypatch.setattr(session, "measure_place", stopped)
    assert measure(MEASURE, tmp_path) == 130
    folder = only_folder(tmp_path)
    kept = result.read(folder / "fig11.json")
    assert kept is not None
    assert ([place.place for place in kept.places], kept.missing) == (["152.0 MiB"], ["no limit"])
    begun = len(launches(tmp_path))
    monkeypatch.setattr(session, "measure_place", whole)
    capsys.readouterr()
    with scripted(tmp_path):
        assert main([*MEASURE, "--resume", str(folder), "--json"]) == 0
    values = json.loads(capsys.readouterr().out)
    afterwards = launches(tmp_path)[begun:]
    assert afterwards
    assert {name.split("/")[0] for name in afterwards} == {"fig11-no-limit"}
    (figure,) = values["figures"]
    assert [place["place"] for place in figure["places"]] == ["152.0 MiB", "no limit"]
    assert figure["missing"] == []
    labels = {row["summary"]["label"] for place in figure["places"] for row in place["rows"]}
    assert labels == {"measured"}


def test_no_place_begins_beyond_the_budget(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert measure([*MEASURE, "--budget", "1"], tmp_path) == 1
    assert launches(tmp_path) == []
    assert "not whole: fig. 11; go on with --resume" in capsys.readouterr().err


def test_time_left_follows_from_the_places_that_have_ended() -> None:
    places = places_of("11", find("tiny-cpu"))
    clock = Clock(budget_seconds=1000.0)
    assert clock.left(places) == sum(place.seconds for place in places)
    clock.note(places[0], 3 * places[0].seconds)
    assert clock.left(places[1:]) == 3 * places[1].seconds
    assert not clock.allows(places[1])


def test_all_places_of_the_default_workload_end_within_the_default_budget() -> None:
    base = find("tiny-cpu")
    places = [place for figure in result.FIGURES for place in places_of(figure, base)]
    assert sum(place.seconds for place in places) <= PaperMeasurement.budget
    assert len({place.folder for place in places}) == len(places)
    assert counts(base)[-1] * 64 == base.sequence_tokens


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--measure", "--tables", "3"], "leave --tables out"),
        (["--measure", "--models", "gpt-7b"], "leave --models out"),
        (["--measure", "--figures", "9"], "unknown figure to measure '9'; known: 7, 10, 11, 12"),
        (["--launches", "2"], "leave --launches out: it is a flag of --measure"),
        (["--measure", "--miniature", "gpt-7b-128k-8xh100"], "it needs CPU ranks"),
        (["--measure", "--miniature", "mini-cpu", "--publish"], "only tiny-cpu is published"),
        (["--measure", "--measured-steps", "0"], "must be at least 1"),
        (["--measure", "--budget", "0"], "give positive seconds"),
    ],
)
def test_wrong_flags_are_one_line(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["paper", *arguments]) == 2
    shown = capsys.readouterr().err
    assert words in shown
    assert shown.count("\n") == 1


PEAKS = {"fast": 90, "middle": 100, "lean": 160, "odd": 50}
"""Emulated peaks in MiB at another length, by the point's name: the leanest differs there."""


def candidates_of(
    limit_mib: int, monkeypatch: pytest.MonkeyPatch, peaks: dict[str, int]
) -> tuple[Candidates, list[str]]:
    """The candidates at another length, and the points that were emulated for them."""
    monkeypatch.setattr(known_grids, "grid", lambda *_: FREE)
    (_, longer, _) = places_of("10", find("mini-cpu"))
    workload = longer.workload.with_device_memory(limit_mib * MIB)
    emulated: list[str] = []

    def peak_of(point: Configuration) -> int | None:
        emulated.append(point.settings["name"])
        peak = peaks.get(point.settings["name"])
        return None if peak is None else peak * MIB

    grid = [*GRID, assignment("odd")]
    place = replace(longer, workload=workload)
    return settings.candidates_at("megatron", place, grid, peak_of), emulated


def test_at_another_length_candidates_are_the_fastest_known_whose_emulated_peak_fits(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Known times: fast 1.0, middle 1.5, lean 2.0 s; of "odd" none. Known least peak: of lean."""
    ordered, emulated = candidates_of(152, monkeypatch, PEAKS)
    assert [point.settings["name"] for point in ordered.ordered] == ["middle", "odd"]
    assert emulated == ["middle", "lean", "odd"], "fast needs more than the limit at 512 tokens"
    assert ordered.proven == frozenset()
    assert not ordered.timed
    words = f"{settings.FASTEST_FITTING}, of 3 settings at 1,024 tokens"
    assert {point.grid for point in ordered.ordered} == {words}
    assert ordered.peaks_bytes[assignment("odd").key] == 50 * MIB


def test_at_another_length_a_peer_is_refused_at_its_least_emulated_peak_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ordered, emulated = candidates_of(40, monkeypatch, PEAKS)
    assert [point.settings["name"] for point in ordered.ordered] == ["odd"]
    assert emulated == ["odd"], "no peak of odd is known; the others need more at 512 tokens"
    assert f"{settings.LEAST_EMULATED}, of 1 settings" in ordered.ordered[0].grid


def test_a_launch_decides_where_emulation_has_no_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    ordered, _ = candidates_of(152, monkeypatch, {"lean": 160})
    assert [point.settings["name"] for point in ordered.ordered] == ["lean", "middle", "odd"]
    assert settings.LEAST_EMULATED in ordered.ordered[0].grid
    assert settings.UNCOUNTED in ordered.ordered[1].grid
    broken, _ = candidates_of(152, monkeypatch, {})
    assert [point.settings["name"] for point in broken.ordered] == ["middle", "lean", "odd"]


def test_the_leanest_known_point_is_the_last_where_enough_others_fit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(settings, "POINTS", 1)
    monkeypatch.setattr(settings, "SPARE_POINTS", 0)
    ordered, emulated = candidates_of(152, monkeypatch, PEAKS)
    assert emulated == ["middle"]
    assert [point.settings["name"] for point in ordered.ordered] == ["middle", "lean"]
    assert settings.LEANEST_KNOWN in ordered.ordered[1].grid


def test_emulation_at_another_length_ends_with_enough_candidates(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(settings, "POINTS", 1)
    monkeypatch.setattr(settings, "SPARE_POINTS", 1)
    _, emulated = candidates_of(400, monkeypatch, PEAKS)
    assert emulated == ["fast", "middle"]


def test_peaks_at_another_length_are_those_of_the_library_s_own_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "results").mkdir()
    monkeypatch.chdir(tmp_path)
    base = find("mini-cpu")
    workload = replace(base, sequence_tokens=2 * base.sequence_tokens)
    grid = grid_assignments("native", workload)
    stream = io.StringIO()
    with emulated_peaks("native", workload, Lines(stream)) as peak_of:
        first, last = peak_of(grid[0]), peak_of(grid[-1])
    assert first is not None
    assert last is not None
    assert last < first
    shown = stream.getvalue().splitlines()
    assert f"native, 1,024 tokens, emulated: {grid[0].settings_text}: peak" in shown[0]


def test_a_bounded_search_leaves_refused_settings_out() -> None:
    workload = find("mini-cpu")

    def setting(name: str, status: Any) -> longest.SearchedSetting:
        point = replace(GRID[0], status=status)
        return longest.SearchedSetting(row=GRID[0].row, label=name, at=lambda _: point)

    every = [setting("a", "unavailable"), setting("b", None), setting("c", None)]
    assert [each.label for each in longest._leanest(every, workload, 1)] == ["b"]
    assert longest._leanest(every, workload, None) == every


def test_the_rows_have_every_system() -> None:
    assert {row.system for row in settings.rows()} == {"deepspeed", "megatron", "native", "sppo"}
    labels = {row.label for row in settings.rows()}
    assert {*fig10.PEERS, throughput.SPPO, fig11.megatron()} <= labels


@pytest.mark.parametrize("figure", ["7", "10", "12"])
def test_a_page_says_what_is_not_measured_yet(figure: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(result, "published", lambda figure: RECORDED / "none.json")
    page = files.item_page(registry.maker(f"fig{figure}")())
    assert f"not measured yet: `sppo-bench paper --measure --figures {figure}`" in page


@pytest.mark.parametrize(
    ("figure", "words"),
    [
        ("7", "Busy time rises at 2 of 3 halvings and falls at 1; simulated, it rises at"),
        ("10", "3 of 3 claimed signs of SPPO over a peer agree with the emulated panel, 1 are"),
        ("12", "SPPO goes farthest on 2 of 3 numbers of ranks. 5 of 6 orders of two systems agree"),
    ],
)
def test_a_page_has_the_measured_panel(figure: str, words: str, tmp_path: Path) -> None:
    item = registry.maker(f"fig{figure}")()
    page = files.item_page(item)
    assert words in page
    assert "## In miniature, measured" in page
    assert "AMD EPYC, 2 cores, commit aaaaaaaaa, 2026-11-29" in page
    points = [point for point in item.points if point.label == "measured"]
    assert points
    assert all("2026-11-29" in point.source for point in points)
    drawn = capture(lambda path: files.write_item(item, path), tmp_path)
    check_words(drawn[f"fig{figure}.png"])


def simulated(adaptive: float, msp: float | None, spare: float) -> fig11.Simulated:
    return fig11.Simulated(adaptive=adaptive, msp=msp, spare_msp=spare)


def test_fig_11_s_signs_are_those_of_intervals() -> None:
    figure = measured("11")
    agreeing = [simulated(1.0, None, 1.06), simulated(1.004, None, 1.06)]
    panel = fig11.panel(figure, simulated=agreeing)
    assert panel.verdict.startswith("8 of 8 signs agree")
    other = fig11.panel(figure, simulated=[simulated(1.35, 1.2, 1.06)])
    assert other.verdict.startswith("1 of 4 signs agree")
    assert "152.0 MiB: adaptive offload has the settings of full offload." in panel.notes
    crosses = {point.series: point.outcome for point in panel.points if point.value is None}
    assert crosses == {"no offload": "does not fit", "adaptive offload + MSP": "does not fit"}


def changed(place: MeasuredPlace, **values: Any) -> MeasuredPlace:
    ratios = [msgspec.structs.replace(ratio, **values) for ratio in place.ratios]
    return msgspec.structs.replace(place, ratios=ratios)


@pytest.mark.parametrize(
    ("values", "sign"),
    [
        ({"ratio": 1.2, "low": 1.1, "high": 1.3}, "faster"),
        ({"ratio": 0.8, "low": 0.7, "high": 0.9}, "slower"),
        ({"ratio": 1.02, "low": 0.99, "high": 1.05}, "no clear difference"),
        ({"ratio": None, "low": None, "high": None, "reason": "noise"}, "not claimed"),
    ],
)
def test_a_sign_is_that_of_the_interval(values: dict[str, Any], sign: str) -> None:
    place = changed(measured("10").places[0], **values)
    assert signs.sign_of(place, "SPPO", "Megatron tuned") == sign
    assert signs.sign_of(place, "SPPO", "nobody") == "not claimed"


@pytest.mark.parametrize(
    ("status", "sign"), [("oom", "does not fit"), ("failed", "not claimed"), ("ok", "not claimed")]
)
def test_only_a_refusal_of_memory_means_that_a_row_does_not_fit(status: str, sign: str) -> None:
    place = measured("10").places[0]
    rows = [
        msgspec.structs.replace(row, summary=replace(row.summary, status=status))
        if row.summary.row == "SPPO"
        else row
        for row in place.rows
    ]
    place = msgspec.structs.replace(place, ratios=[], rows=rows)
    assert signs.sign_of(place, "SPPO", "Megatron tuned") == sign


def test_fig_10_s_order_in_memory_turns_where_the_statuses_turn() -> None:
    places = measured("10").places
    assert fig10.measured_order(places, "sppo", "megatron") == "longer"
    assert fig10.measured_order(places, "megatron", "sppo") == "shorter"
    assert fig10.measured_order(places[:1], "sppo", "megatron") == "equal"


def test_fig_12_s_capped_search_is_at_least_and_hides_an_order_of_two_caps() -> None:
    place = measured("12").longest[1]
    table = fig12.panel(measured("12"), emulated=[]).tables[0]
    cells = [row[3] for row in table.rows if row[:2] == ["2 ranks", "SPPO"]]
    assert cells == ["≥ 2,048"]
    assert fig12.measured_order(place, "sppo", "deepspeed") == "longer"
    both = msgspec.structs.replace(
        place, rows=[msgspec.structs.replace(row, longest_tokens=2048) for row in place.rows]
    )
    assert fig12.measured_order(both, "sppo", "deepspeed") is None
    assert all(fig12.binding(row, both) == "cap of the search" for row in both.rows)


def test_fig_7_takes_no_sign_from_unsettled_times() -> None:
    lengths = fig7.lengths_of(measured("7").places[0])
    assert "is longer than" in fig7.verdict(lengths, {2048: 1.0, 1024: 2.0})
    assert "This sign does not agree" in fig7.verdict(lengths, {2048: 2.0, 1024: 1.0})
    noisy = [
        replace(
            length,
            row=msgspec.structs.replace(
                length.row, summary=replace(length.row.summary, timing="unsettled")
            ),
        )
        for length in lengths
    ]
    words = fig7.verdict(noisy, {2048: 1.0, 1024: 2.0})
    assert "is not clearly longer or shorter than" in words
    assert "This sign does not agree" in words
    assert "The bubble falls at 0 of 3" in words


def test_fig_7_counts_a_step_only_where_all_launches_agree() -> None:
    assert fig7.step_sign({1: 1.0, 2: 1.0}, {1: 1.1, 2: 1.2, 3: 0.1}) == 1
    assert fig7.step_sign({1: 1.0, 2: 1.0}, {1: 0.9, 2: 0.8}) == -1
    assert fig7.step_sign({1: 1.0, 2: 1.0}, {1: 0.9, 2: 1.1}) == 0
    assert fig7.step_sign({1: 1.0}, {2: 2.0}) == 0


def test_whole_figures_are_published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, target = tmp_path / "run", tmp_path / "published"
    folder.mkdir()
    monkeypatch.setattr(result, "published", lambda figure: target / f"fig{figure}.json")
    result.write(folder, measured("12"))
    result.publish(folder, "12")
    assert result.read(target / "fig12.json") == measured("12")
    assert (target / "fig12.csv").read_text().count("\n") == 1 + sum(
        len(place.rows) for place in measured("12").longest
    )


def test_every_key_of_the_files_is_explained() -> None:
    text = (Path(__file__).parents[2] / "docs" / "paper.md").read_text()
    kinds = (MeasuredFigure, MeasuredPlace, LongestPlace, result.LaunchTimes, result.MeasuredRatio)
    names = {name for kind in kinds for name in kind.__struct_fields__}
    assert [name for name in names if f"`{name}`" not in text] == []


def test_a_damaged_file_names_the_cure(tmp_path: Path) -> None:
    path = tmp_path / "fig7.json"
    path.write_text(json.dumps({"schema": result.SCHEMA}))
    with pytest.raises(store.RecordError, match="measure the figure anew"):
        result.read(path)
