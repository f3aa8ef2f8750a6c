"""The paper's fig. 11 in simulation: what docs/sweeps.md says of it, and the verb."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from itertools import pairwise
from pathlib import Path

import pytest

from benchmarks import workloads
from benchmarks.cli import main
from benchmarks.commands.studies import simulated_ablation
from benchmarks.docs import pages
from benchmarks.paper import offload_ablation as ablation
from benchmarks.paper import offload_ablation_report, reported
from benchmarks.paper.offload_ablation import (
    ADAPTIVE,
    FULL,
    HOSTED,
    MSP,
    SPACIOUS_MSP,
    AblationPoint,
    VariantResult,
)
from benchmarks.paper.offload_ablation_report import comparisons
from sppo.config.hardware import Hardware, Rates, load_hardware
from sppo.cost_model.msp import plan_slice_costs
from sppo.cost_model.plan_costs import plan_costs
from sppo.planner.activations import policies
from sppo.planner.evaluate import plan_of
from sppo.planner.layouts.timed_layout import TimedLayout
from sppo.planner.options import SolverOptions
from sppo.schedule.build import build_schedule
from sppo.schedule.instructions import Op
from sppo.schedule.simulate import simulate
from sppo.schedule.simulation import Cause
from tests.unit import docs_text

SOURCES = {source.model: source for source in reported.ablation_points()}
A100 = load_hardware("a100-80g")
DOCS = Path(__file__).parents[2] / "docs"
GENERATED = "sweeps-simulated-ablation"


@cache
def papers_point(model: str, profile: Hardware = A100) -> AblationPoint:
    return ablation.ablation_point(
        SOURCES[model].workload(), profile, SolverOptions(), SOURCES[model]
    )


def papers_variants(model: str, profile: Hardware) -> AblationPoint:
    """The paper's variants with MSP as a what-if, without the search for a layout of one's own."""

    def rows(layout: TimedLayout) -> Iterator[VariantResult]:
        for variant in (*ablation.PAPERS, SPACIOUS_MSP):
            yield ablation.variant_result(variant, layout)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ablation, "_rows", rows)
        return ablation.ablation_point(
            SOURCES[model].workload(), profile, SolverOptions(), SOURCES[model]
        )


def rows_of(point: AblationPoint) -> dict[str, VariantResult]:
    return {row.variant: row for row in point.rows}


def with_links(*, host: float | None = None, node: float | None = None) -> Hardware:
    profile = A100
    if host is not None:
        rate = host * 1e9
        profile = replace(profile, d2h_bytes_per_second=rate, h2d_bytes_per_second=rate)
    if node is not None:
        profile = replace(profile, internode_bytes_per_second=node * 1e9)
    return profile


def flat_rates(profile: Hardware) -> Hardware:
    """Kernels as fast on 128 tokens as on 8K."""
    long = next(rate for rate in profile.rates if rate.tokens == 8192)

    def as_long(rate: Rates) -> Rates:
        return replace(long, tokens=rate.tokens)

    return replace(profile, rates=tuple(as_long(rate) for rate in profile.rates))


def test_the_papers_points_and_layouts() -> None:
    assert list(SOURCES) == ["gpt-13b", "gpt-65b"]
    assert papers_point("gpt-13b").layout == "SP 8 x PP 8, 1 chunk a stage, N 32"
    assert papers_point("gpt-65b").layout == "SP 16 x PP 8, 1 chunk a stage, N 80"
    for model in SOURCES:
        assert papers_point(model).layout_from == "the paper's table 4"
        full, adaptive, _ = papers_point(model).rows[:3]
        assert full.layout == adaptive.layout == papers_point(model).layout


@pytest.mark.parametrize(
    ("model", "adaptive", "msp"), [("gpt-13b", 1.35, 1.58), ("gpt-65b", 1.61, 1.66)]
)
def test_the_papers_numbers_relative_to_full_offload(
    model: str, adaptive: float, msp: float
) -> None:
    rows = papers_point(model).rows[:3]
    speeds = [row.paper_speed_over_full_offload for row in rows]
    assert speeds == pytest.approx([1.0, adaptive, msp], abs=0.006)
    assert all(row.paper_speed_over_megatron is not None for row in rows)


@pytest.mark.parametrize("model", list(SOURCES))
def test_full_offload_hides_at_the_profiles_link_so_adaptive_gains_next_to_nothing(
    model: str,
) -> None:
    adaptive, msp = comparisons(papers_point(model))
    assert adaptive.simulated_speed is not None
    assert 1 <= adaptive.simulated_speed < 1.005
    assert adaptive.verdict == offload_ablation_report.EQUAL
    assert (msp.simulated_speed, msp.verdict) == (None, offload_ablation_report.INFEASIBLE)


def test_msp_does_not_fit_and_memory_alone_would_not_make_it_pay() -> None:
    for model, lowest, highest in (("gpt-13b", 0.94, 0.97), ("gpt-65b", 0.98, 1.0)):
        row = rows_of(papers_point(model))[MSP.name]
        assert row.status == "infeasible"
        assert "short by" in row.reason
        assert row.step_seconds is None
        speed = comparisons(papers_point(model))[1].what_if_speed
        assert speed is not None
        assert lowest < speed < highest


@pytest.mark.parametrize("model", list(SOURCES))
def test_where_k_and_v_travel_too_adaptive_offload_is_faster_as_in_the_paper(model: str) -> None:
    rows = rows_of(papers_point(model))
    hosted, adaptive = rows[HOSTED.name].step_seconds, rows[ADAPTIVE.name].step_seconds
    assert hosted is not None
    assert adaptive is not None
    assert 1.18 < hosted / adaptive < 1.42


def test_a_host_link_an_eighth_as_fast_gives_the_papers_gain() -> None:
    comparison = comparisons(papers_variants("gpt-13b", with_links(host=1.6)))[0]
    assert comparison.simulated_speed == pytest.approx(1.35, abs=0.03)
    assert comparison.verdict == offload_ablation_report.AS_IN_THE_PAPER


def test_links_and_short_slices_are_what_msp_loses_by() -> None:
    def speed(profile: Hardware) -> float:
        faster = comparisons(papers_variants("gpt-13b", profile))[1].what_if_speed
        assert faster is not None
        return faster

    fast = with_links(node=200)
    assert speed(A100) < 1 < speed(fast)
    assert speed(flat_rates(fast)) > 1.15


def test_a_variant_that_does_not_fit_has_the_reason_instead_of_numbers() -> None:
    """So slow a link hides little, and what stays does not fit; full offload does."""
    point = papers_variants("gpt-65b", with_links(host=0.4))
    rows = rows_of(point)
    adaptive = rows[ADAPTIVE.name]
    assert (rows[FULL.name].status, adaptive.status) == ("ok", "infeasible")
    assert "GiB of device memory" in adaptive.reason
    assert (adaptive.step_seconds, adaptive.speed_over_full_offload) == (None, None)
    assert comparisons(point)[0].verdict == offload_ablation_report.INFEASIBLE


@pytest.mark.parametrize("policy", ["full-offload", "paper"])
def test_no_compute_ends_before_the_copy_beside_it(policy: str) -> None:
    workload = workloads.of_flags(model="gpt-13b", seq="128K", gpus=64, hardware="a100-80g")
    options = SolverOptions(pipeline_parallel=8, subsequences=12, virtual_stages=1)
    profile = with_links(host=2)
    layout = ablation.common_layout(workload, profile, options)
    plan = plan_of(layout, lambda problem: policies.choose(problem, policy))
    schedule = build_schedule(plan)
    costs, slice_costs = plan_costs(plan, profile), plan_slice_costs(plan, profile)
    step = simulate(schedule, costs, slice_costs)
    assert plan.makespan_seconds == step.makespan / 1e9 + plan.reduction_seconds
    assert sum(step.waited(Cause.OFFLOAD)) > 0
    late = {wait.instruction: wait for wait in step.waits if wait.cause is Cause.OFFLOAD}
    for stage, instructions in enumerate(schedule.stages):
        events = {event.instruction: event for event in step.events if event.stage == stage}
        computes = [
            instruction
            for instruction in instructions
            if instruction.op in (Op.FORWARD, Op.BACKWARD)
        ]
        for before, compute in pairwise(computes):
            copy = events.get(before._replace(op=Op.OFFLOAD))
            wait = late.get(compute)
            if before.op is Op.FORWARD and copy is not None and copy.end > events[compute].end:
                assert wait is not None
                assert (wait.start, wait.end) == (events[compute].end, copy.end)
            else:
                assert wait is None


def test_the_plan_of_a_variant_has_its_step_time() -> None:
    """The solver, the simulation and the ablation have one rule for late copies."""
    for point in (papers_point("gpt-65b"), papers_variants("gpt-65b", with_links(host=2))):
        for row in point.rows:
            if row.status == "ok":
                assert row.step_seconds == row.planned_seconds


def test_what_is_asked_goes_before_the_papers_layout() -> None:
    source = SOURCES["gpt-13b"]
    options, words = ablation.fixed_options(SolverOptions(subsequences=16), source)
    assert (options.subsequences, options.pipeline_parallel, options.virtual_stages) == (16, 8, 1)
    assert words == "the paper's table 4, but for what was asked"
    options, words = ablation.fixed_options(SolverOptions(pipeline_parallel=4), source)
    assert (options.subsequences, options.sequence_parallel) == (None, None)
    assert words.startswith("what was asked, else the solver's")


def test_keys_are_documented() -> None:
    text = (DOCS / "sweeps.md").read_text()
    document = offload_ablation_report.as_json(papers_point("gpt-13b"))
    for values in (document, document["rows"][0], document["order"][0]):
        for key in values:
            assert f"`{key}`" in text, key


@pytest.mark.parametrize("model", list(SOURCES))
def test_the_documents_table_is_what_is_simulated(model: str) -> None:
    text = (DOCS / "sweeps.md").read_text()
    rows = rows_of(papers_point(model))
    for variant in (FULL, ADAPTIVE, HOSTED, SPACIOUS_MSP):
        seconds = rows[variant.name].step_seconds
        assert seconds is not None
        assert f"{seconds:.3f}" in text, variant.name


@pytest.fixture
def simulated_before(monkeypatch: pytest.MonkeyPatch) -> None:
    """The command takes the points of the other tests."""
    points = {(source.workload(), A100): papers_point(model) for model, source in SOURCES.items()}
    monkeypatch.setattr(simulated_ablation, "ablation_point", lambda *asked: points[asked[:2]])


@pytest.mark.usefixtures("simulated_before")
def test_the_generated_table_is_up_to_date() -> None:
    """`test_docs_tables.py` checks all others."""
    made = pages.TABLES[GENERATED]()
    assert made == docs_text.generated_table("sweeps.md", GENERATED), (
        "run: python -m benchmarks.docs"
    )


@pytest.mark.usefixtures("simulated_before")
def test_the_command_names_what_is_simulated_and_what_is_not(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["ablation", "--simulate"]) == 0
    out = capsys.readouterr().out
    assert "gpt-13b, 512K tokens, 64 ranks, simulated with a100-80g (assumed profile)" in out
    assert "paper (fig. 11, read off)" in out
    assert "| infeasible |" in out
    assert "not simulated here" in out
    assert not list(tmp_path.iterdir())


def test_a_workload_of_ones_own_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    flags = "--model gpt-tiny --seq 4096 --gpus 2 --hardware cpu-2core --host-link 3 --pp 2"
    assert main(["ablation", "--simulate", "--json", *flags.split()]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["schema"] == ablation.SCHEMA
    (point,) = document["points"]
    assert point["hardware"] == "cpu-2core, host link 3 GB/s"
    assert point["megatron"] == "not simulated"
    assert {row["label"] for row in point["rows"]} == {"simulated"}
    assert [row["paper_speed_over_megatron"] for row in point["rows"][:3]] == [None] * 3
    assert [row["variant"] for row in point["rows"][:3]] == [FULL.name, ADAPTIVE.name, MSP.name]


def test_where_nothing_fits_every_row_says_why(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ablation", "--simulate", "tiny-cpu", "--device-memory", "1MiB"]) == 1
    out = capsys.readouterr().out
    assert out.count("infeasible: tiny-cpu: no plan fits") == 3
    assert SPACIOUS_MSP.name not in out
