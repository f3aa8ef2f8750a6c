"""What NCCL is asked for, seen by a stand-in: this torch may have no NCCL."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.distributed as dist

from benchmarks import workloads
from sppo.comm.mesh import RankGroups, groups_along, join_groups
from sppo.comm.messages import Channel, Connection
from sppo.comm.nccl import MESSAGE_CTAS
from sppo.config.hardware import load_hardware
from sppo.engine import engine
from sppo.engine.context import EngineContext
from sppo.plan.plan import Plan
from sppo.planner.options import SolverOptions
from sppo.planner.solve import solve

WORLD = object()
CUDA = torch.device("cuda", 0)
CONNECTIONS = [Connection(0, 1, channel) for channel in Channel]


class Options:
    """As torch's, with NCCL's own configuration."""

    def __init__(self, *, is_high_priority_stream: bool = False) -> None:
        self.is_high_priority_stream = is_high_priority_stream
        self.config = SimpleNamespace(min_ctas=None, max_ctas=None)


class Nccl:
    """Rank 0 of `ranks`; remembers the options of every group, and every call on one."""

    def __init__(self, ranks: int) -> None:
        self.ranks = ranks
        self.message_groups: list[Options] = []
        self.team_groups: list[Options] = []
        self.calls: list[tuple[str, Any]] = []

    def new_group(self, *, timeout: Any, pg_options: Options) -> Options:
        self.message_groups.append(pg_options)
        return pg_options

    def new_subgroups(
        self, groups: list[list[int]], *, timeout: Any, pg_options: Options
    ) -> tuple[Options, list[Options]]:
        self.team_groups.append(pg_options)
        return pg_options, [pg_options]

    def call(self, name: str) -> Callable[..., None]:
        def note(tensor: torch.Tensor, *_: Any, group: Any = None, **__: Any) -> None:
            self.calls.append((name, group))

        return note


@pytest.fixture
def plan() -> Plan:
    """PP 2 x SP 2 x DP 2: every team has two ranks."""
    workload = replace(
        workloads.find("gpt-7b-128k-8xh100"), sequence_tokens=8192, sequences_per_step=2
    )
    degrees = {"pipeline_parallel": 2, "sequence_parallel": 2, "data_parallel": 2}
    degrees["ulysses_parallel"] = 1
    return solve(workload, load_hardware("h100-80g"), SolverOptions(subsequences=4, **degrees))


@pytest.fixture
def nccl(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> Nccl:
    made = Nccl(plan.ranks)
    zeros = torch.zeros
    monkeypatch.setattr(torch, "zeros", lambda *shape, device=None, **rest: zeros(*shape, **rest))
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: None)
    for name, stand_in in {
        "ProcessGroupNCCL": SimpleNamespace(Options=Options),
        "group": SimpleNamespace(WORLD=WORLD),
        "get_backend": lambda group=None: "nccl",
        "get_world_size": lambda group=None: made.ranks if group in (None, WORLD) else 2,
        "get_rank": lambda group=None: 0,
        "new_group": made.new_group,
        "new_subgroups_by_enumeration": made.new_subgroups,
        **{name: made.call(name) for name in ("all_reduce", "send", "recv")},
    }.items():
        monkeypatch.setattr(dist, name, stand_in, raising=False)
    return made


def test_a_message_takes_few_processors_and_a_stream_of_high_priority(
    plan: Plan, nccl: Nccl
) -> None:
    join_groups(plan)
    assert len(nccl.message_groups) == 2 * len(Channel)
    for group in nccl.message_groups:
        assert group.config.max_ctas == group.config.min_ctas == MESSAGE_CTAS <= 4
        assert group.is_high_priority_stream


def test_collectives_of_a_team_have_high_priority_and_all_processors(
    plan: Plan, nccl: Nccl
) -> None:
    join_groups(plan)
    assert len(nccl.team_groups) == 2, "copies and shards"
    assert all(group.is_high_priority_stream for group in nccl.team_groups)
    assert all(group.config.max_ctas is None for group in nccl.team_groups)


def test_every_communicator_is_made_before_the_first_message(plan: Plan, nccl: Nccl) -> None:
    groups = join_groups(plan)
    groups.connect(CONNECTIONS, CUDA)
    names = [name for name, _ in nccl.calls]
    assert names == ["all_reduce"] * 3 + ["send"] * len(Channel)
    assert [group for _, group in nccl.calls[:3]] == [*nccl.team_groups, WORLD]
    groups.connect(CONNECTIONS, CUDA)
    assert len(nccl.calls) == len(names), "once for all plans"
    assert groups.everyone.traffic.messages == 0, "not counted"


def test_only_the_right_ranks_make_a_team(plan: Plan) -> None:
    assert groups_along(plan, "shard")[0] == [0, 1]
    assert [len(groups_along(plan, axis)[0]) for axis in ("stage", "replica")] == [2, 2]


@pytest.mark.parametrize("device", ["cuda", "cpu"])
def test_kernels_run_once_between_the_connections_and_the_first_receive(
    device: str, plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    stage = SimpleNamespace(warm_kernels=lambda: done.append("warm kernels"))
    monkeypatch.setattr(engine, "Stage", lambda *_: stage)
    monkeypatch.setattr(engine, "Engine", lambda schedule, stage: done.append("engine"))
    monkeypatch.setattr(engine, "check_room", lambda memory, device: done.append("room"))
    groups: Any = SimpleNamespace(
        connect=lambda connections, device: done.append("connect"),
        coordinate=SimpleNamespace(stage=0),
    )
    context = EngineContext(device=torch.device(device), dtype=torch.bfloat16)
    engine.build_engine(plan, {}, context, groups)  # type: ignore[arg-type]
    on_cuda = ["room", "warm kernels"] if device == "cuda" else []
    assert done == ["connect", *on_cuda, "engine"]


def test_groups_of_gloo_need_no_first_use(monkeypatch: pytest.MonkeyPatch, plan: Plan) -> None:
    calls: list[object] = []
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        monkeypatch.setattr(dist, "all_reduce", lambda *args, **kwargs: calls.append(args))
        alone = replace(plan, pipeline_parallel=1, sequence_parallel=1, data_parallel=1)
        groups: RankGroups = join_groups(alone)
        groups.connect([], torch.device("cpu"))
    finally:
        dist.destroy_process_group()
    assert not calls
