"""From counts to a time: made-up counts on made-up hardware, step times computed by hand."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import msgspec
import pytest

from baselines.megatron.adapter import ADAPTER
from baselines.megatron.settings import MegatronSettings
from benchmarks.accounting.memory_timeline import StepPosition
from benchmarks.emulation.emulator import conclude
from benchmarks.emulation.result import (
    Counts,
    Emulation,
    Operations,
    RoleReport,
    SimulatedTime,
    Traffic,
)
from benchmarks.emulation.tables import time_text
from benchmarks.emulation.time.costs import by_link, compute_seconds, ranks_of
from benchmarks.emulation.time.one_f_one_b import StageSeconds, order, stage_ends
from benchmarks.emulation.time.step_time import simulated_time
from benchmarks.emulation.time.systems import without_messages
from benchmarks.workloads import find, of_flags
from sppo.config.hardware import Hardware, Rates, load_hardware
from sppo.config.models import MODELS
from sppo.config.workload import Cluster, Workload
from sppo.cost_model.plan_costs import simulate_plan
from sppo.planner.options import SolverOptions
from sppo.planner.solve import solve

SECONDS = 1e-9
"""Of one nanosecond."""

BY_HAND = replace(
    load_hardware("a100-80g"),
    name="by-hand",
    rates=(
        Rates(
            tokens=64,
            dense_forward=100.0,
            dense_backward=50.0,
            attention_forward=10.0,
            attention_backward=5.0,
        ),
    ),
    layer_overhead_seconds=0.5,
    peak_flops_per_second=1000.0,
    memory_bytes_per_second=1000.0,
    collective_bytes_per_second=100.0,
    p2p_bytes_per_second=50.0,
    p2p_latency_seconds=0.25,
    internode_bytes_per_second=4.0,
    internode_latency_seconds=0.5,
    ranks_per_node=2,
)
WORKLOAD = Workload(
    name="by-hand",
    model=replace(MODELS["gpt-tiny"], layers=4),
    cluster=Cluster(hardware="by-hand", device="cuda", nodes=2, ranks_per_node=2),
    sequence_tokens=256,
    sequences_per_step=3,
    dtype="bfloat16",
)
MEGATRON: dict[str, Any] = {
    "tensor_parallel": 2,
    "pipeline_parallel": 2,
    "context_parallel": 1,
    "sequence_parallel": True,
    "recompute": "full",
    "recompute_layers": 0,
    "recompute_modules": (),
}
FLASH = "aten._scaled_dot_product_flash_attention_for_cpu"


def counts(
    *, matmul: int, forward: int, backward: int, recomputed: int, traffic: list[Traffic]
) -> Counts:
    """A step whose state is 500 bytes; `forward` and `backward` are attention's operators."""
    return Counts(
        peak_device_bytes=1000,
        peak_host_bytes=0,
        activation_peak_bytes=0,
        before_step_bytes=0,
        peak_by_kind_bytes={"weights": 100, "gradients": 200, "optimizer": 200, "temporary": 9},
        at_peak_by_kind_bytes={},
        peak_at=StepPosition(
            phase="forward", backwards=0, all_backwards=3, operation="mm", share=0.5
        ),
        flops=matmul + forward + backward,
        flops_by_operation=Operations(
            matmul=matmul,
            attention_causal=forward + backward,
            attention_full=2 * (forward + backward),
            recomputed=recomputed,
        ),
        flops_by_operator={
            "aten.mm": matmul,
            FLASH: forward,
            f"{FLASH} (masked)": forward,
            f"{FLASH}_backward": backward,
            f"{FLASH}_backward (masked)": backward,
        },
        communication_bytes=0,
        communication_by_link_bytes={"in node": 0, "between nodes": 0},
        communication=traffic,
        copied_to_host_bytes=0,
        copied_from_host_bytes=0,
    )


def traffic(operation: str, group: str, calls: int, sent_bytes: int, **changes: Any) -> Traffic:
    values: dict[str, Any] = {"link": "between nodes", "bytes": 2 * sent_bytes, **changes}
    return Traffic(
        operation=operation,
        group=group,
        group_ranks=len(ranks_of(group)),
        calls=calls,
        sent_bytes=sent_bytes,
        **values,
    )


# 1.5 s once a step: 8 bytes over both ranks' shares of the node's network, a latency.
SUM_OF_NORMS = traffic("all_reduce", "0-3", 1, 8)

# A micro-batch: forward 1 + 100/100 + 20/10 = 4 s, recomputed 4 s, backward
# 2 * (1 + 100/50 + 20/5) = 14 s; collectives 0.5 + 3 = 3.5 s, of which 1 in the forward; send 2 s.
FIRST = counts(
    matmul=1200,
    forward=120,
    backward=150,
    recomputed=360,
    traffic=[
        traffic("all_gather", "0,1", 6, 900, link="in node"),
        traffic("send", "0 > 2", 3, 18),
        traffic("recv", "2 > 0", 3, 18),
        SUM_OF_NORMS,
    ],
)

# A micro-batch: forward 1 + 200/100 = 3 s, recomputed 3, backward 2 * (1 + 200/50) = 10, send 2.
SECOND = counts(
    matmul=2400,
    forward=0,
    backward=0,
    recomputed=600,
    traffic=[
        traffic("send", "2 > 0", 3, 18),
        traffic("recv", "0 > 2", 3, 18),
        SUM_OF_NORMS,
    ],
)


def report(name: str, rank: int, ranks: int, counted: Counts | None) -> RoleReport:
    return RoleReport(role=name, rank=rank, ranks=ranks, status="ok", counts=counted)


STAGES = [report("stage 0", 0, 2, FIRST), report("stage 1", 2, 2, SECOND)]


def megatron(reports: list[RoleReport]) -> SimulatedTime | None:
    return simulated_time("megatron", MEGATRON, WORKLOAD, BY_HAND, reports)


def known(time: SimulatedTime | None) -> SimulatedTime:
    assert time is not None
    return time


def test_one_forward_one_backward() -> None:
    words = [
        "".join(f"{task}{number} " for task, number, _ in order(stage, 3, 4)) for stage in (0, 2)
    ]
    assert words == ["F0 F1 F2 B0 F3 B1 B2 B3 ", "F0 B0 F1 B1 F2 B2 F3 B3 "]
    assert order(0, 4, 2) == [("F", 0, 0), ("F", 1, 0), ("B", 0, 0), ("B", 1, 0)]


def test_equal_stages_take_the_closed_formula() -> None:
    """(m + p - 1) * (forward + backward), the last stage p - 1 backwards earlier."""
    stage = StageSeconds(forward=1.0, backward=2.0)
    assert stage_ends([stage] * 4, 8) == [33.0, 31.0, 29.0, 27.0]
    assert stage_ends([stage], 5) == [15.0]


def test_two_unequal_stages_and_three_micro_batches() -> None:
    """stage 0 (7, 20.5): F0 -7, F1 -14, B0 25-45.5, F2 -52.5, B1 -73, B2 -93.5;
    stage 1 (3, 15): F0 7-10, B0 -25, F1 -28, B1 -43, F2 52.5-55.5, B2 -70.5.
    """
    time = known(megatron(STAGES))
    assert time.step_seconds == pytest.approx(93.5 + 1.5 + 1)
    assert time.step_seconds_if_hidden == pytest.approx(78 + 1)
    assert time.role == "stage 0"
    assert time.compute_seconds == pytest.approx(3 * (4 + 14 + 4))
    assert time.optimizer_seconds == pytest.approx(2 * 500 / 1000)
    assert time.communication_seconds == pytest.approx({"in node": 10.5, "between nodes": 7.5})
    busy = (3 * (7 + 20.5) + 2.5) + (3 * (3 + 15) + 2.5)
    assert time.idle_share == pytest.approx(1 - busy / (2 * 96))


def test_tokens_and_utilisation_are_those_of_the_workload() -> None:
    time = known(megatron(STAGES))
    assert time.tokens_per_second == pytest.approx(3 * 256 / 96)
    assert time.tokens_per_second_per_gpu == pytest.approx(3 * 256 / 96 / 4)
    layer = 2 * 12 * 256 * 256 * 256 + 4 * 256 * (256 * 257 // 2)
    model_flops = 3 * 3 * (4 * layer + 2 * 256 * 256 * 256)
    assert time.mfu == pytest.approx(model_flops / (96 * 4 * 1000))
    assert time.mfu_if_hidden == pytest.approx(model_flops / (79 * 4 * 1000))


def test_without_sequence_parallelism_a_backward_sends_what_a_forward_does() -> None:
    """Collectives 3.5 s a micro-batch in equal thirds; the end waits for two of stage 0's forwards
    and three of its backwards.
    """
    settings = {**MEGATRON, "sequence_parallel": False}
    time = known(simulated_time("megatron", settings, WORKLOAD, BY_HAND, STAGES))
    shift = 3.5 / 3 - 1
    assert time.step_seconds == pytest.approx(96 + 2 * shift - 3 * shift)


def test_deepspeed_is_the_sum_of_its_parts() -> None:
    """4 layers, 3 sequences: overhead 6 s. Forward 15, recomputed 15, backward 48.

    An all-to-all leaves the node with 20 of its 30 bytes, 5 s and two latencies; the gather has
    both ranks' share of the network, 2 s and a latency.
    """
    messages = [traffic("all_to_all", "0-3", 2, 30), traffic("all_gather", "0-3", 1, 16)]
    step = msgspec.structs.replace(FIRST, communication=messages)
    settings = {"sequence_parallel": 4, "zero_stage": 3}
    reports = [report("every rank", 0, 4, step)]
    time = known(simulated_time("deepspeed", settings, WORKLOAD, BY_HAND, reports))
    assert time.step_seconds == pytest.approx(78 + 6 + 2.5 + 1)
    assert time.step_seconds_if_hidden == pytest.approx(78 + 1)
    assert time.compute_seconds == pytest.approx(78)
    assert time.idle_share == pytest.approx(0)
    assert any("prefetches" in words for words in time.assumptions)


def test_hosted_checkpoints_pay_for_their_copies() -> None:
    """100 bytes take 10 s to the host and 5 s back, and hide where the profile's copies do."""
    profile = replace(BY_HAND, d2h_bytes_per_second=10.0, h2d_bytes_per_second=20.0)
    copied = {"copied_to_host_bytes": 100, "copied_from_host_bytes": 100}
    settings = {"sequence_parallel": 4, "zero_stage": 3}

    def time_of(profile: Hardware, **counts: int) -> SimulatedTime:
        step = msgspec.structs.replace(FIRST, **counts)
        reports = [report("every rank", 0, 4, step)]
        return known(simulated_time("deepspeed-ours", settings, WORKLOAD, profile, reports))

    without, hosted = time_of(profile), time_of(profile, **copied)
    assert (without.copy_seconds, hosted.copy_seconds) == (0, pytest.approx(15))
    assert hosted.step_seconds - without.step_seconds == pytest.approx(15)
    assert hosted.step_seconds_if_hidden == pytest.approx(without.step_seconds_if_hidden)
    assert any("hide under nothing" in words for words in hosted.assumptions)
    exposed = time_of(replace(profile, overlapped_copies=False), **copied)
    assert exposed.step_seconds_if_hidden - without.step_seconds_if_hidden == pytest.approx(15)


def test_sppo_is_the_simulation_of_its_plan() -> None:
    """On a profile that has no nodes."""
    workload, profile = find("mini-cpu"), load_hardware("cpu-2core")
    plan = solve(workload, profile, SolverOptions())
    ranks = plan.sequence_parallel * plan.data_parallel
    silent = msgspec.structs.replace(FIRST, communication=[traffic("send", "0 > 1", 1, 8)])
    reports = [
        report(f"stage {stage}", stage * plan.sequence_parallel, ranks, silent)
        for stage in range(plan.pipeline_parallel)
    ]
    settings = msgspec.to_builtins(SolverOptions())
    time = known(simulated_time("sppo", settings, workload, profile, reports))
    optimizer = time.optimizer_seconds
    step, ideal = (simulate_plan(plan, links) for links in (profile, without_messages(profile)))
    after = plan.reduction_seconds + optimizer
    assert time.step_seconds == pytest.approx(step.makespan * SECONDS + after)
    assert time.step_seconds_if_hidden == pytest.approx(ideal.makespan * SECONDS + optimizer)
    assert time.step_seconds >= time.step_seconds_if_hidden
    assert time.compute_seconds == pytest.approx(max(ideal.busy) * SECONDS)
    assert time.profile_kind == "measured"


def test_no_time_where_a_role_is_missing() -> None:
    assert megatron(STAGES[:1]) is None
    assert megatron([STAGES[0], report("stage 1", 2, 2, None)]) is None
    assert megatron([]) is None
    assert simulated_time("reference", {}, WORKLOAD, BY_HAND, STAGES) is None


def test_ranks_one_by_one_take_the_time_of_their_roles() -> None:
    alone = [report(f"rank {rank}", rank, 1, (FIRST, SECOND)[rank // 2]) for rank in range(4)]
    assert known(megatron(alone)).step_seconds == known(megatron(STAGES)).step_seconds


def test_recomputation_is_no_gradient() -> None:
    work = compute_seconds(FIRST, BY_HAND, tokens=128, layer_passes=0)
    assert (work.forward, work.backward, work.recompute) == (9.0, 36.0, 9.0)
    once = counts(matmul=900, forward=60, backward=150, recomputed=0, traffic=[])
    work = compute_seconds(once, BY_HAND, tokens=128, layer_passes=0)
    assert (work.forward, work.backward, work.recompute) == (9.0, 36.0, 0.0)


@pytest.mark.parametrize(
    ("group", "ranks"),
    [
        ("0-3", [0, 1, 2, 3]),
        ("0-24 by 8", [0, 8, 16, 24]),
        ("0,1,5", [0, 1, 5]),
        ("8 > 0", [8, 0]),
    ],
)
def test_a_group_is_read_as_it_is_written(group: str, ranks: list[int]) -> None:
    assert ranks_of(group) == ranks


def test_a_profile_without_nodes_has_one_link() -> None:
    alone: Hardware = replace(
        BY_HAND, device="cpu", internode_bytes_per_second=None, internode_latency_seconds=None
    )
    seconds = by_link([traffic("all_reduce", "0-3", 1, 100)], alone, WORKLOAD.cluster)
    assert seconds == {"in node": 0.0, "between nodes": 1.25}
    assert without_messages(alone).internode_bytes_per_second is None


def test_the_record_of_an_emulation_has_it_too_big_or_not() -> None:
    workload = of_flags(model="gpt-7b", seq="1M", gpus=32, hardware="a100-80g")
    settings = MegatronSettings(tensor_parallel=8, pipeline_parallel=4, sequence_parallel=True)
    too_big = msgspec.structs.replace(FIRST, peak_device_bytes=10**12, communication=[])
    reports = [report(f"stage {stage}", 8 * stage, 8, too_big) for stage in range(4)]
    record = conclude(workload, ADAPTER, settings, reports)
    assert record.status == "oom"
    assert known(record.simulated_time).profile == "a100-80g"
    decoded = msgspec.json.decode(msgspec.json.encode(record), type=Emulation)
    assert decoded.simulated_time == record.simulated_time
    assert conclude(workload, ADAPTER, settings, reports[1:]).simulated_time is None


def test_the_line_for_people_says_what_it_is() -> None:
    text = time_text(known(megatron(STAGES)))
    assert text.startswith("simulated, by-hand profile (assumed): 96.0 s a step, 79.0 s if all ")
    assert "2.00 tokens/s a GPU" in text
    assert "bubble 26.3%" in text
