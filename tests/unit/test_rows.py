from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import msgspec
import pytest

from baselines import registry
from baselines.protocol import Unavailable
from benchmarks import workloads
from benchmarks.records import store
from benchmarks.records.plan_record import plan_data, plan_words
from benchmarks.records.store import RecordError
from benchmarks.rows import assign as rows
from benchmarks.rows import known_grids, plans, tuning
from benchmarks.rows.assign import assign
from benchmarks.rows.row import ROWS, Row, find, settings_key, slug_of
from benchmarks.rows.tuning import GridPoint, SystemTuning
from sppo.config.errors import Infeasible
from sppo.config.hardware import load_hardware
from sppo.config.sizes import MIB
from sppo.planner.options import SolverOptions
from sppo.planner.solve import solve
from tests.unit.planning_cases import PROFILE

WORKLOAD = workloads.find("mini-cpu").with_device_memory(152 * MIB)
NONE_OF_TODAY = f" (0 of today's {len(registry.load('megatron').grid(WORKLOAD))})"
"""In the source of a choice from made-up points."""


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


def test_five_rows_with_their_readings_and_others_by_name() -> None:
    assert [(row.label, row.reading) for row in find([])] == [
        ("DeepSpeed Ulysses", "at its best"),
        ("Megatron in SPPO's layout", "as the paper ran it"),
        ("Megatron tuned", "at its best"),
        ("PyTorch native", "at its best"),
        ("SPPO", ""),
    ]
    assert [(row.label, row.reading) for row in ROWS if row.by_name_only] == [
        ("DeepSpeed, hosted checkpoints (ours)", ""),
        ("Megatron, attention saved (ours)", ""),
        ("Megatron with TransformerEngine", ""),
    ]


@pytest.mark.parametrize(
    ("names", "slugs"),
    [
        (
            [],
            [
                *("deepspeed-ulysses", "megatron-same-layout", "megatron-tuned"),
                *("pytorch-native", "sppo"),
            ],
        ),
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
        (["megatron-te"], ["megatron-te"]),
        (["Megatron with TransformerEngine"], ["megatron-te"]),
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
    known = "deepspeed, megatron, deepspeed-ours, megatron-ours, megatron-te, native"
    with pytest.raises(ValueError, match=f"unknown system 'vllm'; known: {known}"):
        find(["vllm"])


def test_the_winner_of_the_exact_limit() -> None:
    slow, fast, oom = point("slow", 2.0, 80), point("fast", 1.0, 90), point("x", None, None, "oom")
    tuning.save(WORKLOAD, grid(oom, slow, fast))
    choice = known_grids.choose("megatron", WORKLOAD)
    assert choice.settings == {"name": "fast"}
    assert choice.source == (
        f"fastest of 3 points{NONE_OF_TODAY}, from the committed grid of a machine, commit "
        "bbbbbbbbb, 2026-11-24 (tuning/mini-cpu-152MiB.json)"
    )


def test_a_choice_says_how_many_of_todays_points_were_measured() -> None:
    today = [
        msgspec.structs.replace(point("a", 1.0, 80), settings=msgspec.to_builtins(settings))
        for settings in registry.load("megatron").grid(WORKLOAD)
    ]
    tuning.save(WORKLOAD, grid(*today[:2], point("older", 2.0, 80)))
    words = f"fastest of 3 points (2 of today's {len(today)}), from"
    assert known_grids.choose("megatron", WORKLOAD).source.startswith(words)
    tuning.save(WORKLOAD, grid(*today))
    words = f"fastest of {len(today)} points, from"
    assert known_grids.choose("megatron", WORKLOAD).source.startswith(words)


def test_another_limit_takes_the_fastest_that_fits_it() -> None:
    points = point("fast", 1.0, 300), point("fits", 1.5, 100), point("frugal", 2.5, 50)
    tuning.save(WORKLOAD.with_device_memory(None), grid(*points))
    choice = known_grids.choose("megatron", WORKLOAD)
    assert choice.settings == {"name": "fits"}
    assert "without a limit whose peak fits 152.0 MiB" in choice.source


def test_a_grid_under_a_tighter_limit_is_better_than_none() -> None:
    tuning.save(WORKLOAD.with_device_memory(100 * MIB), grid(point("frugal", 2.5, 50)))
    tuning.save(WORKLOAD.with_device_memory(200 * MIB), grid(point("large", 1.0, 180)))
    choice = known_grids.choose("megatron", WORKLOAD)
    assert choice.settings == {"name": "frugal"}
    words = "fastest under a tighter limit, 100.0 MiB, of 1 points"
    assert choice.source.startswith(f"{words}{NONE_OF_TODAY}, from")


def measured_here(monkeypatch: pytest.MonkeyPatch, machine: str = "a machine") -> None:
    monkeypatch.setattr(known_grids, "machine_here", lambda workload: machine)


def test_a_grid_of_this_machine_comes_before_a_committed_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its own file stays where another commit brings another committed grid."""
    tuning.save(WORKLOAD, grid(point("here", 2.0, 80)))
    committed = tuning.path_of(WORKLOAD.name, WORKLOAD.device_memory_bytes)
    own = tuning.own_path_of(WORKLOAD.name, WORKLOAD.device_memory_bytes)
    assert committed.read_bytes() == own.read_bytes()
    committed.write_bytes(own.read_bytes().replace(b'"here"', b'"there"'))
    assert known_grids.choose("megatron", WORKLOAD).settings == {"name": "there"}
    measured_here(monkeypatch)
    monkeypatch.setattr(known_grids, "git_state", lambda checkout: ("b" * 40, False))
    choice = known_grids.choose("megatron", WORKLOAD)
    assert choice.settings == {"name": "here"}
    words = (
        f"fastest of 1 points{NONE_OF_TODAY}, from the grid measured on this machine, 2026-11-24"
    )
    assert choice.source == words
    monkeypatch.setattr(known_grids, "git_state", lambda checkout: ("c" * 40, False))
    choice = known_grids.choose("megatron", WORKLOAD)
    assert choice.source == f"{words}; stale: commit bbbbbbbbb, here ccccccccc"


def test_a_grid_of_other_libraries_is_stale(monkeypatch: pytest.MonkeyPatch) -> None:
    def with_core(number: str) -> str:
        old = grid(point("a", 1.0, 1))["megatron"]
        changed = msgspec.structs.replace(old, versions={"megatron-core": number, "torch": "9"})
        tuning.save(WORKLOAD, {"megatron": changed})
        return known_grids.choose("megatron", WORKLOAD).source

    adapter = registry.load("megatron")
    here = {"megatron-core": "0.16.1", "torch": "9"}
    monkeypatch.setattr(type(adapter), "versions", lambda self: here)
    assert with_core("0.16.0").endswith("; stale: megatron-core 0.16.0, here 0.16.1")
    assert "stale" not in with_core("0.16.1")


TINY = workloads.find("tiny-cpu")


def test_sppos_best_plans_are_distinct_and_the_best_comes_first() -> None:
    first, *others = plans.best_plans("sppo", TINY)
    assert first.key == settings_key(msgspec.to_builtins(SolverOptions()))
    assert 0 < len(others) < plans.PLANS
    known = [first, *others]
    assert all(configuration.plan is not None for configuration in known)
    seconds = [(configuration.plan or {})["makespan_seconds"] for configuration in known]
    assert seconds == sorted(seconds)
    assert len({configuration.settings_text for configuration in known}) == len(known)
    assert [configuration.row.label for configuration in known][:2] == ["sppo 01", "sppo 02"]
    assert not plans.can_be_measured("megatron")


def measured_plans(names: dict[str, float], **workload: int) -> dict[str, SystemTuning]:
    points = [
        GridPoint(
            settings=msgspec.to_builtins(SolverOptions(policy=name)),
            settings_text=name,
            status="ok",
            step_seconds_median=seconds,
        )
        for name, seconds in names.items()
    ]
    sizes = {"sequence_tokens": TINY.sequence_tokens, "sequences_per_step": 1} | workload
    tuning_of = grid(*points)["megatron"]
    return {"sppo": msgspec.structs.replace(tuning_of, **sizes)}


SPPO = next(row for row in ROWS if row.system == "sppo")


def test_the_fastest_measured_plan_is_taken_on_this_machine_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tuning.save(TINY, measured_plans({"auto": 2.0, "lean": 1.0}))
    assert assign(SPPO, TINY).settings["policy"] == "auto"
    measured_here(monkeypatch)
    row = assign(SPPO, TINY)
    assert row.settings["policy"] == "lean"
    assert row.grid.startswith("fastest of 2 plans, from the grid measured on this machine, 2026")
    assert row.plan is not None
    assert "recompute all but attention" in row.settings_text
    assert rows.planned_by_the_solver(SPPO, TINY).grid.startswith("planned by the solver")


@pytest.mark.parametrize("change", [{"sequences_per_step": 2}, {"sequence_tokens": 64}])
def test_a_plan_of_another_workload_is_not_taken(
    change: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    measured_here(monkeypatch)
    tuning.save(TINY, measured_plans({"lean": 1.0}, **change))
    assert assign(SPPO, TINY).settings["policy"] == "auto"


def test_a_measured_plan_that_is_none_any_more_gives_way(monkeypatch: pytest.MonkeyPatch) -> None:
    measured_here(monkeypatch)
    unknown = measured_plans({"lean": 1.0})["sppo"]
    point_of = unknown.points[0]
    broken = msgspec.structs.replace(point_of, settings={"policy": "gone"})
    tuning.save(TINY, {"sppo": msgspec.structs.replace(unknown, points=[broken])})
    assert assign(SPPO, TINY).grid.startswith("planned by the solver")


NATIVE = next(row for row in ROWS if row.system == "native")


def test_a_row_without_a_known_grid_begins_with_the_least_work() -> None:
    row = assign(NATIVE, WORKLOAD)
    first = registry.load("native").grid(WORKLOAD)[0]
    assert (row.settings, row.tuned) == (msgspec.to_builtins(first), False)
    assert row.settings_text.endswith(" (untuned)")
    assert row.grid.startswith(
        "not tuned: no native in mini-cpu-152MiB.json; points of the adapter's grid are tried"
    )


def test_where_no_known_point_fits_the_row_takes_the_least_memory() -> None:
    full = grid(point("full", None, None, "oom"))["megatron"]
    tuning.save(WORKLOAD, {"native": full})
    row = assign(NATIVE, WORKLOAD)
    last = registry.load("native").grid(WORKLOAD)[-1]
    assert (row.settings, row.tuned) == (msgspec.to_builtins(last), False)
    assert row.grid.startswith("no tuned point fits this limit; the last point")


def test_a_point_that_the_library_refuses_is_no_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    class Reversed(Small):
        def grid(self, workload: object) -> tuple[dict[str, int], ...]:
            return super().grid(workload)[::-1]

    monkeypatch.setattr(registry, "load", lambda name: Reversed())
    assert assign(Row(label="X", system="x", choosing="tuned"), WORKLOAD).settings == {"degree": 1}


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
        known_grids.choose("megatron", WORKLOAD)


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
    plan = SimpleNamespace(pipeline_parallel=4, head_parallel=2, context_parallel=1)
    monkeypatch.setattr(rows, "sppo_plan", lambda workload: plan)
    assert rows.sppo_layout(WORKLOAD) == ((4, 2, 1), "degrees of SPPO's plan")


def test_same_layout_without_a_plan_is_a_pipeline(monkeypatch: pytest.MonkeyPatch) -> None:
    def none(workload: object) -> None:
        raise Infeasible("too small")

    monkeypatch.setattr(rows, "sppo_plan", none)
    assert rows.sppo_layout(WORKLOAD)[0] == (2, 1, 1)


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


def test_a_plan_in_words_names_the_level_of_the_mlp() -> None:
    workload = workloads.find("gpt-7b-1m-32xa100")
    options = SolverOptions(sequence_parallel=32, ulysses_parallel=8, subsequences=1)
    plan = solve(workload, load_hardware("a100-80g"), options)
    assert plan_words(plan_data(plan)).endswith("offload 0%, recompute norms, MLP")
