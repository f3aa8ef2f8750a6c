"""In bfloat16 sums are float32: merged attention, bias gradients; and wrong attention is seen."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from baselines.protocol import Context
from baselines.reference import ReferenceSettings, ReferenceSystem, needs_checkpoints
from baselines.sppo import ADAPTER, SppoSettings
from benchmarks import workloads
from benchmarks.records.equal_work import TOLERANCE, equal_work
from benchmarks.records.record import Record, StepRecord
from benchmarks.records.standard import standard
from benchmarks.worker.weights import initial_weights
from sppo.comm.collectives import Team
from sppo.config.models import gpt
from sppo.config.sizes import GIB
from sppo.config.workload import Cluster, Workload
from sppo.engine.in_threads import run_in_threads
from sppo.model.layers import ColumnLinear, RowLinear
from sppo.model.mixers import flash_blocks
from sppo.model.mixers.kv_block import KvPair
from sppo.model.weights import Weight
from tests.unit.records_factory import record

CPU = torch.device("cpu")
WORKLOAD = Workload(
    name="bf16",
    model=gpt("gpt-bf16", layers=2, hidden=64, heads=2, vocabulary=128),
    cluster=Cluster(hardware="cpu-2core", device="cpu", nodes=1, ranks_per_node=2),
    sequence_tokens=512,
    dtype="bfloat16",
)
HOSTED = SppoSettings(subsequences=4, kv_offload=True, policy="no-offload")


def relative_error(out: Tensor, expected: Tensor) -> float:
    return float((out.double() - expected).norm() / expected.norm())


@pytest.mark.parametrize("blocks", [4, 64])
def test_many_merges_lose_no_more_than_one_rounding(blocks: int) -> None:
    generator = torch.Generator().manual_seed(0)
    query, keys, values = (
        torch.randn(2, tokens, 32, generator=generator).bfloat16() for tokens in (128, 2176, 2176)
    )
    step = 2048 // blocks
    spans = [slice(first, first + step) for first in range(0, 2048, step)]
    prefix = [(keys[:, span], values[:, span]) for span in spans]
    out, _ = flash_blocks.attend(query, [(keys[:, 2048:], values[:, 2048:])], prefix)
    assert out.dtype == torch.bfloat16
    scores = query.double() @ keys.double().transpose(1, 2) / 32**0.5
    visible = torch.ones(128, 2176, dtype=torch.bool).tril(2048)
    weights = scores.masked_fill(~visible, -torch.inf).softmax(-1)
    assert relative_error(out[0], weights @ values.double()) < 2.0**-8


@pytest.mark.parametrize("layer", ["column", "row"])
def test_a_bias_gradient_is_summed_in_float32(layer: str) -> None:
    generator = torch.Generator().manual_seed(0)
    tokens, width = 4096, 8
    x = torch.randn(tokens, width, generator=generator).bfloat16().requires_grad_()
    grad = (torch.rand(tokens, width, generator=generator) + 0.5).bfloat16()
    weight = Weight(torch.eye(width).bfloat16(), torch.zeros(width, width))
    bias = Weight(torch.zeros(width).bfloat16(), torch.zeros(width))
    if layer == "column":
        out = ColumnLinear.apply(x, Team(), ((weight, bias),))
    else:
        out = RowLinear.apply(x, Team(), weight, bias, None)
    out.backward(grad)
    assert relative_error(bias.gradient, grad.double().sum(0)) < 1e-6


def batches(workload: Workload, count: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(7)
    shape = (workload.sequences_per_step, workload.sequence_tokens + 1)
    return [
        torch.randint(0, workload.model.vocabulary, shape, generator=generator)
        for _ in range(count)
    ]


def steps_of(pairs: Iterable[tuple[float, float]]) -> list[StepRecord]:
    return [
        StepRecord(phase="measured", tokens=512, seconds=1.0, loss=loss, grad_norm=norm)
        for loss, norm in pairs
    ]


def reference_record(settings: ReferenceSettings) -> Record:
    weights = initial_weights(WORKLOAD.model, WORKLOAD.seed, torch.bfloat16)
    context = Context(rank=0, ranks=1, device=CPU, dtype=torch.bfloat16)
    system = ReferenceSystem(WORKLOAD, settings, weights, context)
    results = [system.step(batch) for batch in batches(WORKLOAD, 3)]
    return record(
        system="reference",
        row="Reference",
        workload=WORKLOAD,
        settings={"dtype": settings.dtype},
        steps=steps_of((each.loss, each.grad_norm) for each in results),
    )


@pytest.fixture(scope="module")
def references() -> list[Record]:
    return [reference_record(ReferenceSettings(dtype=dtype)) for dtype in ("float32", None)]


def train(settings: SppoSettings) -> list[StepRecord]:
    plan = ADAPTER.plan(WORKLOAD, settings)
    weights = initial_weights(WORKLOAD.model, WORKLOAD.seed, torch.bfloat16)
    training = run_in_threads(plan, weights, batches(WORKLOAD, 3), optimizer=WORKLOAD.optimizer)
    return steps_of(zip(training.losses, training.gradient_norms, strict=True))


def is_wrong(steps: list[StepRecord], references: list[Record]) -> bool:
    chosen = standard(references)
    assert chosen.measured
    found = equal_work(
        {"SPPO": steps},
        chosen.steps,
        tolerance=TOLERANCE["bfloat16"],
        reference_tolerance=chosen.allowed,
    )
    return bool(found)


@pytest.mark.parametrize("policy", ["no-offload", "full-offload", "lean"])
def test_right_work_passes(policy: str, references: list[Record]) -> None:
    assert not is_wrong(train(SppoSettings(subsequences=4, policy=policy)), references)
    assert not is_wrong(train(replace(HOSTED, policy=policy)), references)


def test_right_work_with_sharded_weights_passes(references: list[Record]) -> None:
    """Pieces in bfloat16 with their masters in float32."""
    sharded = SppoSettings(
        subsequences=3, sequence_parallel=2, ulysses_parallel=2, weights="sharded"
    )
    assert not is_wrong(train(sharded), references)


def forgets_a_block(monkeypatch: pytest.MonkeyPatch) -> None:
    attend = flash_blocks.attend

    def wrong(
        query: Tensor, own: Sequence[KvPair], prefix: Iterable[KvPair], place: int
    ) -> tuple[Tensor, Tensor]:
        return attend(query, own, list(prefix)[1:], place)

    monkeypatch.setattr("sppo.model.mixers.prefix_attention.attend", wrong)


def scales_wrongly(monkeypatch: pytest.MonkeyPatch) -> None:
    attend = flash_blocks.attend

    def wrong(
        query: Tensor, own: Sequence[KvPair], prefix: Iterable[KvPair], place: int
    ) -> tuple[Tensor, Tensor]:
        return attend(1.1 * query, own, prefix, place)

    monkeypatch.setattr("sppo.model.mixers.prefix_attention.attend", wrong)


def drops_key_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    backward = flash_blocks.attend_backward

    def wrong(*args: object) -> Tensor:
        *others, prefix, place = args
        return backward(*others, list(prefix)[1:], place)  # type: ignore[arg-type,call-overload]

    monkeypatch.setattr("sppo.model.mixers.prefix_attention.attend_backward", wrong)


def passes_the_old_share(steps: list[StepRecord], references: list[Record]) -> bool:
    tolerance = TOLERANCE["bfloat16"]
    return not equal_work({"SPPO": steps}, references[1].steps, tolerance=tolerance)


@pytest.mark.parametrize("plant", [forgets_a_block, scales_wrongly, drops_key_gradients])
def test_a_planted_wrong_attention_is_caught(
    plant: object, references: list[Record], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert callable(plant)
    plant(monkeypatch)
    steps = train(SppoSettings(subsequences=4, policy="no-offload"))
    assert is_wrong(steps, references)
    if plant is scales_wrongly:
        assert passes_the_old_share(steps, references), "a fault for which the gate was changed"


def test_without_float32_the_old_share_counts(references: list[Record]) -> None:
    chosen = standard(references[1:])
    assert not chosen.measured
    assert chosen.allowed == {"loss": 2e-2, "grad_norm": 2e-2}


def test_masters_keep_what_bfloat16_would_lose() -> None:
    """An update far below the spacing of bfloat16 around a weight is not lost."""
    workload = replace(WORKLOAD, optimizer=replace(WORKLOAD.optimizer, learning_rate=1e-6))
    weights = initial_weights(workload.model, 0, torch.bfloat16)
    context = Context(rank=0, ranks=1, device=CPU, dtype=torch.bfloat16)
    system = ReferenceSystem(workload, ReferenceSettings(), weights, context)
    before = [master.detach().clone() for master in system.masters]
    for batch in batches(workload, 2):
        system.step(batch[:, :65])
    assert all(master.dtype == torch.float32 for master in system.masters)
    moved = [not torch.equal(a, b) for a, b in zip(system.masters, before, strict=True)]
    assert all(moved)
    for master, parameter in zip(system.masters, system.model.parameters(), strict=True):
        assert torch.equal(master.bfloat16(), parameter)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_reference_with_recomputed_blocks_is_the_same(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("baselines.reference.TILE_TOKENS", 300)
    results = []
    for checkpoints in (False, True):
        monkeypatch.setattr(
            ReferenceSystem, "_needs_checkpoints", lambda *_, value=checkpoints: value
        )
        weights = initial_weights(WORKLOAD.model, 0, dtype)
        context = Context(rank=0, ranks=1, device=CPU, dtype=dtype)
        system = ReferenceSystem(WORKLOAD, ReferenceSettings(), weights, context)
        assert system.model.checkpoints == checkpoints
        results.append([system.step(batch) for batch in batches(WORKLOAD, 2)])
    for kept, recomputed in zip(*results, strict=True):
        assert recomputed.loss == pytest.approx(kept.loss, rel=1e-5)
        assert recomputed.grad_norm == pytest.approx(kept.grad_norm, rel=1e-3)


def test_blocks_are_recomputed_where_one_gpu_could_not_hold_them() -> None:
    workload = workloads.find("gpt-1b-32k-1xh100")
    assert needs_checkpoints(workload, 2, 80 * GIB)
    assert not needs_checkpoints(replace(workload, sequence_tokens=1024), 2, 80 * GIB)
