"""Plans are made once, by the launcher; ranks read them back from the job, reports from records."""

from __future__ import annotations

from dataclasses import fields, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch

from baselines import registry
from baselines.protocol import Context, Follower, Planner
from baselines.sppo import ADAPTER, SppoSettings
from benchmarks.emulation import processes as emulated
from benchmarks.emulation.result import EmulationJob
from benchmarks.job import Job, throw_away_tokens
from benchmarks.launch import planned
from benchmarks.launch.ranks import processes
from benchmarks.launch.ranks.processes import LaunchOptions
from benchmarks.records import store
from benchmarks.records.plan_record import KEYS, plan_data, read_plan
from benchmarks.rows.assign import assign
from benchmarks.rows.row import Row
from benchmarks.workloads import find
from sppo.config.sizes import MIB
from sppo.config.workload import Workload
from sppo.plan.plan import Plan
from sppo.schedule.build import build_schedule

TINY = find("tiny-cpu")
FOUR = find("tiny-cpu-4rank")
CASES: dict[str, tuple[Workload, SppoSettings]] = {
    "free": (TINY.with_device_memory(None), SppoSettings()),
    "lent, sent and made again": (TINY.with_device_memory(136 * MIB), SppoSettings()),
    "everything travels": (TINY, SppoSettings(policy="full-offload", subsequences=4)),
    "hosted K and V": (TINY, SppoSettings(kv_offload=True, subsequences=4)),
    "mixed": (replace(TINY, sequences_per_step=2), SppoSettings(virtual_stages=1, subsequences=4)),
    "shards": (FOUR, SppoSettings(sequence_parallel=2, pipeline_parallel=2)),
    "short sequence": (replace(TINY, sequence_tokens=64), SppoSettings()),
}


def job_of(workload: Workload, settings: SppoSettings, system: str = "sppo") -> Job:
    return Job(
        workload=workload,
        system=system,
        row="SPPO",
        launch=1,
        settings=msgspec.to_builtins(settings),
        weights_path="",
        tokens_path="",
        output_directory="",
        ranks=workload.cluster.ranks,
        warmup_steps=0,
        measured_steps=1,
    )


@pytest.mark.parametrize("name", CASES)
def test_what_a_rank_reads_is_what_was_planned(name: str, tmp_path: Path) -> None:
    workload, settings = CASES[name]
    plan = ADAPTER.plan(workload, settings)
    job = planned.with_plans(job_of(workload, settings))
    fake = emulated.make_job(workload, ADAPTER, settings, tmp_path)
    read = msgspec.json.decode(store.to_json(job), type=Job)
    read_fake = msgspec.json.decode(store.to_json(fake), type=EmulationJob)
    assert read == job
    assert read_fake == fake
    assert read.plans is not None
    assert read_fake.plans == read.plans
    assert read.plans.whole == plan
    assert build_schedule(read.plans.whole) == build_schedule(plan)
    short = read.plans.short
    assert short.sequence_tokens == throw_away_tokens(workload)
    assert (short.degrees_words, short.sequences) == (plan.degrees_words, plan.sequences)
    assert [part.layers for part in short.parts] == [part.layers for part in plan.parts]


@pytest.mark.parametrize("name", CASES)
def test_a_recorded_plan_is_flat_and_can_be_read_back(name: str) -> None:
    plan = ADAPTER.plan(*CASES[name])
    build_schedule(plan)  # fills what a plan remembers of itself
    told = msgspec.json.decode(msgspec.json.encode(plan_data(plan)))
    unusual = ("context_parallel", "sharded_weights", "exchange_pieces")
    keys = tuple(key for key in KEYS if key not in unusual)
    assert tuple(told)[: len(keys)] == keys
    assert not {"layout", "prediction"} & told.keys()
    assert read_plan(told) == plan
    assert set(msgspec.to_builtins(plan)) == {field.name for field in fields(Plan)}


def test_a_plan_that_was_changed_predicts_nothing() -> None:
    plan = replace(ADAPTER.plan(*CASES["free"]), prediction=None)
    with pytest.raises(ValueError, match="has not been simulated"):
        plan_data(plan)


def test_what_a_system_can_is_in_the_protocol() -> None:
    assert registry.load_planner("sppo") is ADAPTER
    with pytest.raises(ValueError, match="megatron makes no plans"):
        registry.load_planner("megatron")
    assert isinstance(registry.load("megatron"), Follower)
    assert not isinstance(registry.load("deepspeed"), Follower)
    with pytest.raises(ValueError, match="deepspeed cannot follow"):
        assign(Row(label="X", system="deepspeed", choosing="same layout"), TINY)
    with pytest.raises(ValueError, match="megatron makes no plans"):
        assign(Row(label="X", system="megatron", choosing="planned"), TINY)


def test_a_system_that_does_not_plan_gets_no_plans() -> None:
    assert not isinstance(registry.load("megatron"), Planner)
    assert planned.with_plans(job_of(TINY, SppoSettings(), "megatron")).plans is None


def test_a_rank_without_plans_makes_none() -> None:
    context = Context(
        rank=0,
        ranks=2,
        device=torch.device("cpu"),
        dtype=torch.float32,
        message_timeout=timedelta(seconds=1),
    )
    with pytest.raises(ValueError, match="give Context its `plans`"):
        ADAPTER.prepare(TINY, SppoSettings(), {}, context)


@pytest.mark.parametrize(
    ("workload", "settings", "status"),
    [
        (TINY.with_device_memory(8 * MIB), SppoSettings(), "infeasible"),
        (TINY, SppoSettings(pipeline_parallel=3), "failed"),
    ],
)
def test_no_plan_is_an_outcome_and_nothing_is_launched(
    workload: Workload, settings: SppoSettings, status: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("nothing may be launched")

    monkeypatch.setattr(processes, "launch", refuse)
    options = LaunchOptions(environment={}, time_limit_seconds=1.0, on_progress=refuse)
    outcome = planned.launch(job_of(workload, settings), options)
    assert outcome.status == status
    assert outcome.reason
