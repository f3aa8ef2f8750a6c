from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest

from baselines import registry
from baselines.protocol import Unavailable
from benchmarks import workloads
from benchmarks.records import store
from benchmarks.records.plan_record import plan_data, plan_words
from benchmarks.records.store import RecordError
from benchmarks.rows import assign as rows
from benchmarks.rows import tuning
from benchmarks.rows.assign import assign
from benchmarks.rows.row import ROWS, Row, find, settings_key, slug_of
from benchmarks.rows.tuning import GridPoint, SystemTuning
from sppo.config.errors import Infeasible
from sppo.config.sizes import MIB
from sppo.planner.options import SolverOptions
from sppo.planner.solve import solve
from tests.unit.planning_cases import PROFILE

WORKLOAD = workloads.find("mini-cpu").with_device_memory(152 * MIB)


@pytest.fixture(autouse=True)
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Nothing committed but what a test writes."""
    (tmp_path / "results").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(store, "published_directory", lambda: tmp_path / "results" / "published")
    return tmp_path / "results"


def grid(*points: GridPoint) -> dict[str, SystemTuning]:
    system = SystemTuning(
        date="2026-11-24",
        machine="a machine",
        commit="b" * 40,
        dirty=False,
        versions={},
        points=list(points),
    )
    return {"megatron": system}


def point(text: str, seconds: float | None, peak_mib: int | None, status: Any = "ok") -> GridPoint:
    return GridPoint(
        settings={"name": text},
        settings_text=text,
        status=status,
        step_seconds_median=seconds,
        tracked_peak_bytes=None if peak_mib is None else peak_mib * MIB,
    )


def test_the_four_rows_of_the_paper_and_others_by_their_names() -> None:
    labels = ["DeepSpeed Ulysses", "Megatron in SPPO's layout", "Megatron tuned", "SPPO"]
    assert [row.label for row in find([])] == labels
    assert [row.label for row in ROWS if row.by_name_only] == [
        "DeepSpeed, hosted checkpoints (ours)",
        "Megatron, attention saved (ours)",
        "PyTorch native",
    ]


@pytest.mark.parametrize(
    ("names", "slugs"),
    [
        ([], ["deepspeed-ulysses", "megatron-same-layout", "megatron-tuned", "sppo"]),
        (["megatron"], ["megatron-same-layout", "megatron-tuned"]),
        (["sppo", "megatron-tuned"], ["megatron-tuned", "sppo"]),
        (["Megatron same layout"], ["megatron-same-layout"]),
        (["Megatron in SPPO's layout"], ["megatron-same-layout"]),
        (["deepspeed", "deepspeed-ulysses"], ["deepspeed-ulysses"]),
        (["sppo", "PyTorch native"], ["pytorch-native", "sppo"]),
        (["native"], ["pytorch-native"]),
        (["deepspeed-ours", "deepspeed"], ["deepspeed-ulysses", "deepspeed-ours"]),
        (["megatron-ours"], ["megatron-ours"]),
        (["Megatron, attention saved (ours)"], ["megatron-ours"]),
    ],
)
def test_rows_by_system_slug_and_label(names: list[str], slugs: list[str]) -> None:
    assert [row.slug for row in find(names)] == slugs


def test_old_and_new_labels_of_a_row_have_one_slug() -> None:
    labels = ("Megatron same layout", "Megatron in SPPO's layout")
    assert {slug_of(label) for label in labels} == {"megatron-same-layout"}


def test_a_field_of_later_code_leaves_older_settings_their_key() -> None:
    today = {"tensor_parallel": 2, "recompute_layers": 0, "virtual_pipeline": None}
    assert settings_key(today) == settings_key({"recompute_layers": 0, "tensor_parallel": 2})
    assert settings_key({**today, "virtual_pipeline": 2}) != settings_key(today)


def test_an_unknown_system_lists_the_known() -> None:
    known = "deepspeed, megatron, deepspeed-ours, megatron-ours, native"
    with pytest.raises(ValueError, match=f"unknown system 'vllm'; known: {known}"):
        find(["vllm"])


def test_the_winner_of_the_exact_limit() -> None:
    slow, fast, oom = point("slow", 2.0, 80), point("fast", 1.0, 90), point("x", None, None, "oom")
    tuning.save(WORKLOAD, grid(oom, slow, fast))
    choice = tuning.choose("megatron", WORKLOAD)
    assert choice.settings == {"name": "fast"}
    assert "fastest of 3 points in tuning/mini-cpu-152MiB.json" in choice.source
    assert "commit bbbbbbbbb, 2026-11-24" in choice.source


def test_another_limit_takes_the_fastest_that_fits_it() -> None:
    points = point("fast", 1.0, 300), point("fits", 1.5, 100), point("frugal", 2.5, 50)
    tuning.save(WORKLOAD.with_device_memory(None), grid(*points))
    choice = tuning.choose("megatron", WORKLOAD)
    assert choice.settings == {"name": "fits"}
    assert "without a limit whose peak fits 152.0 MiB" in choice.source


def test_nothing_tuned_says_so() -> None:
    choice = tuning.choose("megatron", WORKLOAD)
    assert choice.settings is None
    assert "not tuned: no megatron in mini-cpu-152MiB.json" in choice.source


def test_saving_one_system_keeps_the_others() -> None:
    first = grid(point("a", 1.0, 1))
    tuning.save(WORKLOAD, first)
    path = tuning.save(WORKLOAD, {"deepspeed": first["megatron"]})
    loaded = tuning.load(path)
    assert loaded is not None
    assert sorted(loaded.systems) == ["deepspeed", "megatron"]


def test_a_damaged_tuning_file_is_one_clear_line(results: Path) -> None:
    path = tuning.save(WORKLOAD, grid())
    path.write_text("{")
    with pytest.raises(RecordError, match="not a sppo-tuning/1 file"):
        tuning.choose("megatron", WORKLOAD)


class Refusing:
    """An adapter that cannot."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def grid(self, workload: object) -> tuple[object, ...]:
        raise self.error


@pytest.mark.parametrize(
    ("error", "status"),
    [(Unavailable("needs CUDA"), "unavailable"), (Infeasible("3 GiB short"), "infeasible")],
)
def test_a_refusal_is_a_row_with_a_status(
    monkeypatch: pytest.MonkeyPatch, error: Exception, status: str
) -> None:
    monkeypatch.setattr(registry, "load", lambda name: Refusing(error))
    assignment = assign(Row(label="X", system="x", choosing="tuned"), WORKLOAD)
    assert (assignment.status, assignment.reason) == (status, str(error))


def test_same_layout_follows_sppos_plan(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = SimpleNamespace(pipeline_parallel=4, sequence_parallel=2)
    monkeypatch.setattr(rows, "sppo_plan", lambda workload: plan)
    assert rows.sppo_layout(WORKLOAD) == (4, 2, "degrees of SPPO's plan")


def test_same_layout_without_a_plan_is_a_pipeline(monkeypatch: pytest.MonkeyPatch) -> None:
    def none(workload: object) -> None:
        raise Infeasible("too small")

    monkeypatch.setattr(rows, "sppo_plan", none)
    assert rows.sppo_layout(WORKLOAD)[:2] == (2, 1)


class Small:
    """An adapter with two points, one of which its library refuses."""

    environment: ClassVar[dict[str, str]] = {}
    remark = ""
    settings_type = dict[str, int]

    def grid(self, workload: object) -> tuple[dict[str, int], ...]:
        return ({"degree": 1}, {"degree": 3})

    def check(self, workload: object, settings: dict[str, int]) -> None:
        if settings["degree"] == 3:
            raise Unavailable("3 does not divide 4 heads")

    def describe(self, settings: dict[str, int]) -> str:
        return f"degree {settings['degree']}"

    def versions(self) -> dict[str, str]:
        return {"small": "1"}


def test_a_grid_keeps_the_points_that_the_library_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "load", lambda name: Small())
    first, second = rows.grid_assignments("small", WORKLOAD)
    assert (first.row.slug, first.settings_text, first.status) == ("small-01", "degree 1", None)
    assert (second.status, second.reason) == ("unavailable", "3 does not divide 4 heads")


@pytest.mark.parametrize(
    ("policy", "limit_mib", "ending"),
    [
        ("no-offload", None, "offload 0%"),
        ("full-recompute", None, "recompute everything"),
        ("lean", None, "recompute all but attention"),
        ("auto", 136, "recompute norms, activation"),
    ],
)
def test_a_plan_in_words_says_what_is_made_again(
    policy: str, limit_mib: int | None, ending: str
) -> None:
    limit_bytes = None if limit_mib is None else limit_mib * MIB
    workload = workloads.find("tiny-cpu").with_device_memory(limit_bytes)
    plan = solve(workload, PROFILE, SolverOptions(policy=policy))
    assert plan_words(plan_data(plan)).endswith(ending)
