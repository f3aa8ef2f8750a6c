from __future__ import annotations

import csv
import io

import pytest

from benchmarks import workloads
from benchmarks.records.record import Record
from benchmarks.studies import ablation, ablation_report
from sppo.config.sizes import MIB
from sppo.planner.activations.policies import POLICIES
from sppo.planner.options import SolverOptions
from tests.unit.records_factory import record, slower

TINY = workloads.find("tiny-cpu")


@pytest.mark.parametrize("limit_mib", [None, 136, 120, 100])
def test_the_layout_of_autos_plan_is_repeated(limit_mib: int | None) -> None:
    workload = TINY.with_device_memory(None if limit_mib is None else limit_mib * MIB)
    layout, policy = ablation.fixed_layout(workload, POLICIES)
    options = SolverOptions(msp=False, stage_sharding="tensor")
    auto = ablation.plan_under(workload, options)
    repeated = ablation.plan_under(workload, layout)
    assert policy == "auto"
    assert repeated.lengths_tokens == auto.lengths_tokens
    assert repeated.virtual_stages == auto.virtual_stages
    assert repeated.group_subsequences == auto.group_subsequences
    assert repeated.stages == auto.stages


def test_a_policy_that_does_not_fit_keeps_the_planners_reason() -> None:
    layout, _ = ablation.fixed_layout(TINY, POLICIES)
    rows = ablation.configurations(TINY, ("auto", "no-offload"), layout)
    assert rows["auto"][0].status is None
    refused, plan = rows["no-offload"]
    assert (refused.status, plan) == ("infeasible", None)
    assert "no plan fits" in refused.reason


def test_where_no_policy_fits_all_are_infeasible() -> None:
    workload = TINY.with_device_memory(MIB)
    layout, policy = ablation.fixed_layout(workload, ("auto", "lean"))
    assert policy == ""
    rows = ablation.configurations(workload, ("auto", "lean"), layout)
    assert {configuration.status for configuration, _ in rows.values()} == {"infeasible"}


def test_planned_bytes() -> None:
    layout, _ = ablation.fixed_layout(TINY, POLICIES)
    rows = ablation.configurations(TINY, ("full-offload", "full-recompute"), layout)
    offload, recompute = (plan for _, plan in rows.values())
    assert offload is not None
    assert recompute is not None
    assert ablation.recomputed_bytes(offload) == 0
    assert ablation.offloaded_bytes(recompute) == 0
    assert ablation.offloaded_bytes(offload) > 0
    layers, hidden, tokens = TINY.model.layers, TINY.model.hidden, TINY.sequence_tokens
    # Both norms' outputs, query, attention, middle, and twice the MLP's width.
    assert ablation.recomputed_bytes(recompute) == 4 * layers * tokens * (5 + 2 * 4) * hidden


def measured() -> tuple[list[Record], list[ablation.PolicyResult]]:
    layout, _ = ablation.fixed_layout(TINY, POLICIES)
    plans = ablation.configurations(TINY, ("auto", "lean", "no-offload"), layout)
    done = [
        slower("SPPO lean", "sppo", 1.2),
        record(row="SPPO auto"),
        record(row="SPPO no-offload", status="infeasible", reason="3 MiB short"),
        record(row="SPPO auto", launch=2),
        slower("SPPO lean", "sppo", 1.4, launch=2),
    ]
    return done, ablation.results(done, plans)


def test_rows_relative_to_auto_by_launches_side_by_side() -> None:
    auto, lean, refused = measured()[1]
    assert auto.relative_time == 1.0
    assert lean.relative_time == pytest.approx(1.3)
    assert (refused.status, refused.relative_time) == ("infeasible", None)
    assert (refused.predicted_peak_bytes, refused.offloaded_bytes) == (None, None)
    assert auto.predicted_peak_bytes is not None
    assert auto.predicted_peak_bytes <= (TINY.device_memory_bytes or 0)


def test_table_and_csv() -> None:
    done, results = measured()
    text = ablation_report.text(done, results, "auto")
    assert "- no-offload: infeasible: 3 MiB short" in text
    line = next(line for line in text.splitlines() if line.startswith("| lean"))
    assert [cell.strip() for cell in line.strip("|").split("|")][1:5] == [
        "ok",
        "-",
        "0.700 [0.625, 0.715]",
        "1.30 [1.08, 1.56]",
    ]
    rows = list(csv.DictReader(io.StringIO(ablation_report.csv_text(results))))
    assert [row["policy"] for row in rows] == ["auto", "lean", "no-offload"]
    assert rows[2]["step_seconds_median"] == ""
    assert ablation_report.as_json(done, results, "auto")["policies"][0]["policy"] == "auto"
