"""Fused pieces: the numbers of the operators in whose place they stand, and the switch."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from baselines.reference import rotary_tables, rotate
from benchmarks.gpu.place import TINY, Place, train
from benchmarks.worker.step_isolation import uncompiled
from sppo.config.errors import NotSupported
from sppo.config.models import llama
from sppo.kernels import fused
from sppo.model.decoder import rotary_turns
from sppo.planner.options import SolverOptions

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def switched_off() -> Iterator[None]:
    yield
    fused.switch.on, fused.switch.backend = False, "inductor"


def draw(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)


def test_rope_equals_the_complex_product() -> None:
    x, out = draw(4, 6, 8), torch.empty(4, 6, 8, dtype=torch.float64)
    model = llama("case", layers=1, hidden=32, heads=4, kv_heads=4, ffn=8, vocabulary=8)
    turns = rotary_turns(model, 6, CPU, torch.float64)
    expected = torch.view_as_real(torch.view_as_complex(x.unflatten(-1, (-1, 2))) * turns)
    assert fused.rotate_pairs(x, torch.view_as_real(turns), out) is out
    torch.testing.assert_close(out, expected.flatten(-2))


def test_the_rms_norm_and_its_gradients() -> None:
    x, weight, grad = (
        draw(5, 8).requires_grad_(),
        draw(8, seed=1).requires_grad_(),
        draw(5, 8, seed=2),
    )
    expected = F.rms_norm(x, [8], weight, 1e-5)
    gradients = torch.autograd.grad(expected, (x, weight), grad)
    out, rstd = fused.rms_norm(x.detach(), weight.detach(), 1e-5)
    torch.testing.assert_close(out, expected.detach())
    computed = fused.rms_norm_backward(grad, x.detach(), rstd, weight.detach())
    for each, exactly in zip(computed, gradients, strict=True):
        torch.testing.assert_close(each, exactly)


def test_the_loss_of_a_sharded_vocabulary() -> None:
    """Two shards of the words: the sum of the losses, and each shard's gradient."""
    logits = draw(6, 10).requires_grad_()
    targets = torch.tensor([0, 9, 3, 5, 4, 7])
    loss = F.cross_entropy(logits, targets, reduction="sum")
    (gradient,) = torch.autograd.grad(loss, logits)
    shards = logits.detach().chunk(2, -1)
    parts, sums = [], []
    for number, shard in enumerate(shards):
        local = targets - 5 * number
        is_own = ((local >= 0) & (local < 5)).unsqueeze(-1).double()
        columns = (local.unsqueeze(-1) * is_own).long()
        parts.append((shard, columns, is_own))
        sums.append(fused.loss_sums(shard, columns, is_own))
    whole = torch.stack([logsumexp for logsumexp, _ in sums]).logsumexp(0)
    total = whole.sum() - sum(picked for _, picked in sums)
    torch.testing.assert_close(total, loss.detach())
    computed = [
        fused.loss_gradient(shard, whole, columns, is_own, 0.5) for shard, columns, is_own in parts
    ]
    torch.testing.assert_close(torch.cat(computed, -1), 0.5 * gradient)
    torch.testing.assert_close(fused.cross_entropy(logits, targets), loss)


def test_bias_residual_and_swiglu() -> None:
    out, bias, residual = draw(3, 8), draw(8, seed=1), draw(3, 8, seed=2)
    torch.testing.assert_close(fused.add_bias_residual(out, bias, residual), out + bias + residual)
    torch.testing.assert_close(fused.swiglu(out, residual), F.silu(out) * residual)


def test_a_bfloat16_sum_is_rounded_once() -> None:
    out, bias, residual = (draw(4, 64, seed=n, dtype=torch.bfloat16) for n in range(3))
    exact = (out.double() + bias.double() + residual.double()).bfloat16()
    assert torch.equal(fused.add_bias_residual(out, bias, residual), exact)


@pytest.mark.parametrize("model", ["gpt", "llama"])
def test_a_fused_step_has_the_same_loss_and_norm(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A whole step of the engine on two ranks, traced by torch's compiler, run by its operators."""
    sizes = TINY
    if model == "llama":
        shape = llama("case", layers=2, hidden=64, heads=4, kv_heads=2, ffn=96, vocabulary=64)
        sizes = TINY.__class__(**{**vars(TINY), "model": shape})
    place = Place(device=CPU, sizes=sizes, directory=tmp_path)
    options = SolverOptions(subsequences=2, sequence_parallel=2, pipeline_parallel=1)
    plain = train(place, 128, options, steps=2, ranks=2)
    calls: list[str] = []

    def compiled(function: object, backend: str) -> object:
        calls.append(getattr(function, "__name__", ""))
        return function

    monkeypatch.setattr(fused, "_compiled", compiled)
    fused.fuse(CPU, backend="eager")
    fast = train(place, 128, options, steps=2, ranks=2)
    assert fast.losses == pytest.approx(plain.losses, rel=1e-6)
    assert fast.norms == pytest.approx(plain.norms, rel=1e-5)
    expected = {"_rotate_pairs", "_loss_sums", "_loss_gradient"}
    expected |= (
        {"_rms_norm", "_rms_norm_backward", "_swiglu"}
        if model == "llama"
        else {"_add_bias_residual"}
    )
    assert set(calls) == expected


@pytest.mark.soak
def test_torch_s_compiler_takes_every_piece() -> None:
    """Traced without a compiler of machine code: no break in the graph of a piece."""
    tables = rotary_tables(TINY.model, 0, 6, CPU, torch.float32)
    x, wide = draw(2, 6, 16, dtype=torch.float32), draw(6, 16, seed=3, dtype=torch.float32)
    column = torch.zeros(6, 1, dtype=torch.int64)
    pieces = (
        (fused._rotate_pairs, (x, draw(6, 8, 2, dtype=torch.float32), torch.empty_like(x))),
        (fused._rms_norm, (wide, wide[0], 1e-5)),
        (fused._rms_norm_backward, (wide, wide, wide[:, :1], wide[0])),
        (fused._add_bias_residual, (wide, wide[0], wide)),
        (fused._swiglu, (wide, wide)),
        (fused._loss_sums, (wide, column, torch.ones(6, 1))),
        (fused._loss_gradient, (wide, wide[:, :1], column, torch.ones(6, 1), 0.5)),
        (fused._cross_entropy, (wide, column.squeeze(-1))),
        (rotate, (x, *tables)),
    )
    for function, arguments in pieces:
        whole = torch.compile(function, backend="eager", fullgraph=True, dynamic=True)
        fresh = [each.clone() if isinstance(each, torch.Tensor) else each for each in arguments]
        expected, computed = function(*arguments), whole(*fresh)
        torch.testing.assert_close(computed, expected)


def test_the_switch_is_for_cuda() -> None:
    with pytest.raises(NotSupported, match="--fuse needs CUDA, not cpu: leave it out"):
        fused.fuse(CPU)
    assert not fused.switch.on
    fused.fuse(torch.device("cuda"))
    assert fused.switch.on


def test_an_accounted_step_is_not_fused() -> None:
    fused.fuse(torch.device("cuda"))
    with uncompiled(torch.device("cuda")):
        assert not fused.switch.on
    assert fused.switch.on
    with uncompiled(CPU):
        assert fused.switch.on
