"""The paper's figures and tables made anew: labels, bars to reach, and causes in numbers."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from math import isclose
from typing import Any

import pytest

from benchmarks.paper import reported
from benchmarks.paper.items import (
    ablation_bars,
    partition,
    profile,
    registry,
    sppo_steps,
    throughput,
)
from benchmarks.paper.items.figures import fig1, fig5, fig8, fig9, fig10, fig11, fig12
from benchmarks.paper.items.item import LABELS, Item, Point
from benchmarks.paper.items.tables import table2, table3, table4
from benchmarks.reporting.simulated_step import of_unit_costs
from sppo.config.models import MODELS

QUICK = ("fig2", "fig4", "fig5", "fig6", "fig7", "fig8", "fig9", "fig10", "fig12", "table2")
"""Items that are made in a second. The others have tests of their parts."""


@cache
def made(key: str) -> Item:
    return registry.maker(key)()


def point(**changes: Any) -> Point:
    values: dict[str, Any] = {
        "series": "SPPO",
        "place": "1M",
        "quantity": "step",
        "unit": "s",
        "value": 1.0,
        "label": "simulated",
        "source": "a profile",
    }
    return Point(**{**values, **changes})


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"label": ""}, "take one of measured, emulated, simulated, computed, paper, datasheet"),
        ({"label": "guessed"}, "'guessed'"),
        ({"source": ""}, "has no source"),
        ({"value": None}, "say the outcome"),
    ],
)
def test_a_point_without_label_source_or_number_is_refused(
    changes: dict[str, Any], words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        point(**changes)


def test_a_point_has_to_name_its_label() -> None:
    values = {"series": "", "place": "", "quantity": "", "unit": "", "value": 1.0, "source": "x"}
    with pytest.raises(TypeError, match="label"):
        Point(**values)  # type: ignore[arg-type]
    assert point(value=None, outcome="oom").outcome == "oom"


@pytest.mark.parametrize("key", QUICK)
def test_every_row_of_a_csv_has_a_label_and_a_source(key: str) -> None:
    rows = made(key).rows()
    assert rows
    assert {row["label"] for row in rows} <= set(LABELS)
    assert all(row["source"] for row in rows)
    assert {row["item"] for row in rows} == {key}


@pytest.mark.parametrize("key", QUICK)
def test_no_simulated_step_beats_the_profile_s_kernels(key: str) -> None:
    shares = [each.kernel_limit_share for each in made(key).points]
    assert all(0 < share <= 1 for share in shares if share is not None)
    if key in ("fig8", "fig10"):
        assert any(share is not None for share in shares)


@pytest.mark.parametrize("key", QUICK)
def test_a_difference_of_more_than_five_per_cent_has_a_cause(key: str) -> None:
    rows = made(key).comparisons
    far = [row for row in rows if row.difference is None or abs(row.difference) > 0.05]
    assert [row.what for row in far if not row.cause] == []


def test_the_kernel_limit_is_the_best_rates_and_nothing_else() -> None:
    """With equal rates for everything the limit is that rate over the peak."""
    workload = reported.points()[0].workload()
    testbed = profile.testbed()
    best = max(max(row.dense_forward, row.attention_forward) for row in testbed.rates)
    limit = profile.kernel_limit(workload)
    assert 0.4 < limit < best / testbed.peak_flops_per_second
    seconds = profile.hours_per_billion_tokens(workload, 1.0) * 3600
    assert isclose(seconds * workload.tokens_per_step, 1e9)
    assert isclose(profile.kernel_limit_share(workload, 10.0) * limit, profile.mfu(workload, 10.0))


def test_table_3_is_exact() -> None:
    ours = table3.rows_of(*table3.PAPERS_PIPELINE)
    assert table3.wrong_cells(ours) == []
    wrong = {**ours, "right_ranks": [[], [0], [0, 1, 2], [0, 1, 2, 3]]}
    assert table3.wrong_cells(wrong) == ["right_ranks of stage 1"]


def test_table_3_takes_8_33_units() -> None:
    step = of_unit_costs(pipeline_parallel=4, subsequences=8, msp=True)
    assert isclose(step.forward_makespan, 25 / 3)
    assert of_unit_costs(pipeline_parallel=4, subsequences=8).forward_makespan == 11


@pytest.mark.parametrize(("stages", "subsequences"), [(1, 4), (2, 2), (4, 8), (8, 5), (16, 40)])
def test_table_3_gives_every_subsequence_once(stages: int, subsequences: int) -> None:
    rows = table3.rows_of(stages, subsequences)
    for stage in range(stages):
        parts = (rows[kind][stage] for kind in ("left_ids", "steady_ids", "right_ids"))
        assert [index for part in parts for index in part] == list(range(subsequences))
        for side in ("left", "right"):
            assert bool(rows[f"{side}_ids"][stage]) == bool(rows[f"{side}_ranks"][stage])


def test_fig_5_s_partition_is_within_five_per_cent() -> None:
    rows = list(fig5.size_comparisons())
    assert len(rows) == 4
    assert all(row.difference is not None and abs(row.difference) <= 0.05 for row in rows)


@pytest.mark.parametrize("count", partition.COUNTS)
def test_causal_weights_are_not_the_paper_s(count: int) -> None:
    first = partition.pieces(partition.CAUSAL, count)[0].size_bytes / partition.GB
    assert abs(first / partition.papers(count)["first_gb"] - 1) > 0.15
    for weights in partition.WEIGHTS:
        pieces = partition.pieces(weights, count)
        assert sum(piece.tokens for piece in pieces) == 128 * 1024
        assert pieces[0].tokens > pieces[-1].tokens


def test_fig_1_is_within_ten_per_cent_where_short_kernels_are_not_slow() -> None:
    """The paper's own plan. With the profile's rates N 160 is slower; 4M agrees as it is."""
    places = reported.large_points()
    rates = profile.full_rates(profile.testbed())
    for place in places:
        paper = next(
            row["hours"]
            for row in reported.numbers("fig1_hours_per_1b_tokens")
            if row["gpus"] == place.gpus and row["system"] == "sppo"
        )
        step = fig1.paper_point_plan(place, rates)
        hours = profile.hours_per_billion_tokens(place.workload(), step.seconds)
        assert abs(hours / paper - 1) <= 0.10, place.seq
        assert step.short == ""
    assert (
        fig1.paper_point_plan(places[0]).seconds
        > 1.1 * sppo_steps.own_plan(places[0].workload().name).seconds
    )


def test_this_project_s_plans_are_those_that_the_check_compares() -> None:
    step = sppo_steps.own_plan("gpt-7b, 512K, 32 GPUs")
    assert step.settings.startswith("SP 32 (Ulysses 32) x PP 1, N ")
    assert "results/expected/plans-paper.json" in step.source
    with pytest.raises(KeyError, match="sppo-bench check --update"):
        sppo_steps.own_plan("gpt-7b, 3K, 1 GPU")


def test_a_plan_that_does_not_fit_says_what_it_lacks() -> None:
    place = reported.points()[0]
    workload = replace(place.workload(), device_memory_bytes=30 * 2**30)
    degrees = table4._reported_degrees(place)
    fits = sppo_steps.paper_plan(place.workload(), degrees, 32)
    short = sppo_steps.paper_plan(workload, degrees, 32)
    assert fits.short == ""
    assert "device memory" in short.short
    assert short.seconds > 0


def test_table_4_shows_three_plans_of_a_point(monkeypatch: pytest.MonkeyPatch) -> None:
    place = reported.points()[0]
    monkeypatch.setattr(reported, "points", lambda: [place])
    item = table4.make()
    steps = [each for each in item.points if each.label == "simulated"]
    assert [each.series for each in steps] == [table4.PAPERS, table4.HEURISTIC, table4.OURS]
    assert all(each.kernel_limit_share and each.kernel_limit_share <= 1 for each in steps)
    (row,) = item.comparisons
    assert row.paper == 32
    assert "N 32" in steps[0].settings


def test_table_2_s_sizes_follow_from_the_blocks() -> None:
    need = table2.need_of(MODELS["gpt-65b"])
    assert 32 < need.hidden_bytes < 32.2
    assert need.gpus == 1086


@pytest.mark.parametrize("variant", fig8.VARIANTS, ids=lambda variant: variant.name)
def test_a_memory_curve_ends_at_nothing_and_has_the_simulator_s_peak(variant: Any) -> None:
    schedule = fig8.schedule_of(variant, replace(reported.points()[0], seq="64K"))
    for stage in range(4):
        curve = fig8.saved_curve(schedule, stage)
        peak = max(size for _, size in curve)
        assert curve[-1][1] == 0
        assert peak == schedule.step.kept_peak_bytes[stage]


def test_fig_9_s_parts_are_those_of_the_block() -> None:
    units = fig9.tensor_units()
    assert {name for members in fig9.GROUPS.values() for name in members} <= units.keys()
    summed = {name for part in fig9.SUMMED for name in fig9.GROUPS[part]}
    assert units.keys() - summed == {"norm1.output", "norm1.statistics"}


def test_fig_10_s_ratios_have_the_idle_pipeline_as_their_cause() -> None:
    item = made("fig10")
    ratios = [row for row in item.comparisons if "SPPO over Megatron" in row.what]
    assert len(ratios) == 4
    for row in ratios:
        assert row.difference is not None
        assert abs(row.difference) <= 0.15 or "without idle time 1.2" in row.cause
    assert not any("--sequences-per-step" in note for note in item.notes), "all are committed"


def test_fig_10_says_how_to_make_an_emulation_that_is_not_committed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    read = fig10.published.read
    monkeypatch.setattr(
        fig10.published, "read", lambda figure, count: None if count == 16 else read(figure, count)
    )
    item = fig10.make()
    assert any("--sequences-per-step 16" in note for note in item.notes)
    derived = [point for point in item.points if "in equal slots" in point.quantity]
    assert derived
    assert all("16 sequences" in point.settings for point in derived)


def test_a_pipeline_of_four_stages_idles_for_three_of_seven_slots() -> None:
    emulated = fig10.published.read("10", 4)
    assert emulated is not None
    rows = throughput.rows_of(4, emulated)
    same = next(row for row in rows if "PP4" in row.verdict.settings_text)
    assert isclose(same.idle_share, 3 / 7)
    flat = next(row for row in rows if "PP" not in row.verdict.settings_text)
    assert flat.idle_share == 0


def test_a_what_if_gives_the_signs_of_fig_11() -> None:
    place = reported.ablation_points()[0]
    steps = ablation_bars.steps_of(place)
    rows = list(fig11._comparisons(place, steps))
    assert fig11.unexplained(rows) == []
    printed = [row for row in rows if fig11.WHAT_IF not in row.what]
    assert [row.ours is None for row in printed] == [False, True]
    assert fig11.unexplained(printed) == [row.what for row in printed]
    assert all(row.cause for row in rows)


def test_fig_12_names_what_binds_and_marks_capped_searches() -> None:
    emulated = fig12.published.read("12", 1)
    assert emulated is not None
    capped = [row for row in emulated.longest if fig12.is_capped(row)]
    assert {row.system for row in capped} == {"sppo"}
    assert all("cap of the search; device memory" in fig12.binding(row) for row in capped)
    rows = [each for each in made("fig12").points if each.outcome.startswith("at least")]
    assert len([row for row in rows if row.label == "emulated"]) == len(capped)
    assert {row.label for row in rows} <= {"emulated", "measured"}
