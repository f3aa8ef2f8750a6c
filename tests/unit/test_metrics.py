from __future__ import annotations

from dataclasses import replace

import pytest

from benchmarks import workloads
from benchmarks.job import Accounted
from benchmarks.records import metrics
from benchmarks.records.record import Peak
from sppo.config.models import MODELS
from sppo.plan.weights import weight_shapes
from tests.unit.records_factory import step


@pytest.mark.parametrize("name", ["gpt-tiny", "llama-tiny", "gpt-7b", "llama-8b"])
def test_dense_is_six_operations_a_token_and_weight_of_every_matrix_but_the_embedding(
    name: str,
) -> None:
    model = MODELS[name]
    workload = replace(workloads.find("mini-cpu"), model=model)
    shapes = weight_shapes(model)
    matrices = [
        shape[0] * shape[1]
        for key, shape in shapes.items()
        if len(shape) == 2 and key != "embedding.weight"
    ]
    assert metrics.step_flops(workload).dense == 6 * sum(matrices) * 512


def test_flops_by_hand() -> None:
    """gpt-mini: 2 layers, hidden 64, 4 heads of 16, MLP 256, vocabulary 256; 512 tokens."""
    flops = metrics.step_flops(workloads.find("mini-cpu"))
    block = 4 * 64 * 64 + 2 * 64 * 256
    assert flops.dense == 3 * 2 * (2 * block + 64 * 256) * 512
    pairs = 512 * 513 // 2
    assert flops.attention_causal == 3 * 2 * 4 * (2 * 16 + 2 * 16) * pairs
    assert flops.attention_full == 3 * 2 * 4 * (2 * 16 + 2 * 16) * 512 * 512


@pytest.mark.parametrize(
    ("name", "ratio"), [("gpt-7b-128k-8xh100", 1.72), ("gpt-7b-4m-128xa100", 1.99)]
)
def test_full_over_causal_at_long_sequences(name: str, ratio: float) -> None:
    flops = metrics.step_flops(workloads.find(name))
    full = flops.dense + flops.attention_full
    assert full / (flops.dense + flops.attention_causal) == pytest.approx(ratio, abs=0.005)


def test_recompute_is_what_was_counted_beyond_the_workload() -> None:
    flops = metrics.step_flops(workloads.find("mini-cpu"))
    attention = flops.attention_causal // 6 * 7
    ranks = [
        Accounted(flops={"aten.mm": flops.dense + 1000, "aten.sdpa (masked)": 10**15}),
        Accounted(flops={"aten.sdpa": attention}),
    ]
    assert metrics.with_recompute(flops, ranks).recompute == 1000
    assert metrics.with_recompute(flops, [ranks[0], None]).recompute is None
    assert metrics.with_recompute(flops, []).recompute is None


def test_spread() -> None:
    assert metrics.spread([]) is None
    assert metrics.spread([2.0]) == metrics.Spread(median=2.0, low=2.0, high=2.0)
    assert metrics.spread([1, 2, 3, 4, 5]) == metrics.Spread(median=3, low=2, high=4)


def test_only_measured_steps_are_timed() -> None:
    steps = [step(phase=phase, seconds=9.0) for phase in ("throw-away", "accounted", "warm-up")]
    assert metrics.measured_seconds([*steps, step(seconds=0.5)]) == [0.5]


def test_utilisation_needs_time_and_peak() -> None:
    peak = Peak(flops_per_second=100.0, source="", kind="datasheet")
    assert metrics.utilisation(400, 2.0, 4, peak) == 0.5
    assert metrics.utilisation(400, None, 4, peak) is None
    assert metrics.utilisation(400, 2.0, 4, None) is None


@pytest.mark.parametrize(
    ("name", "tera_flops"),
    [
        ("NVIDIA A100-SXM4-40GB", 312),
        ("NVIDIA A100-SXM4-80GB", 312),
        ("NVIDIA A100-PCIE-40GB", 312),
        ("NVIDIA A100 80GB PCIe", 312),
        ("NVIDIA H100 80GB HBM3", 989.4),
        ("NVIDIA H100 PCIe", 756.5),
        ("NVIDIA H100 NVL", 835.5),
        ("NVIDIA H200", 989.4),
        ("NVIDIA H200 NVL", 835.5),
        ("NVIDIA A100-SXM4-80GB MIG 3g.40gb", None),
        ("NVIDIA H100 80GB HBM3 MIG 1g.10gb", None),
        ("NVIDIA H100 PCIe MIG 2g.20gb", None),
        ("GRID A100-10C", None),
        ("NVIDIA A100X", None),
        ("NVIDIA A10", None),
        ("NVIDIA A100-SXM-64GB", None),
        ("NVIDIA GH200 480GB", None),
        ("NVIDIA H20", None),
        ("NVIDIA H2000", None),
        ("NVIDIA Unheard-of 9000", None),
        ("", None),
    ],
)
def test_datasheet_never_guesses(name: str, tera_flops: float | None) -> None:
    peak = metrics.datasheet_peak(name)
    assert (peak and peak.flops_per_second) == (tera_flops and tera_flops * 1e12)
