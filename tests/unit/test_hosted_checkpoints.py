"""The host tier of DeepSpeed's checkpoints: bits, strides, slots, and where the memory lies."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from baselines.deepspeed.checkpointing import contexts_of, region
from baselines.deepspeed.hosted import HostTier, hosted_region
from baselines.protocol import Context
from benchmarks.accounting.accounting import Accounting
from benchmarks.worker.device import private_bytes
from sppo.config.errors import HostTierFull
from sppo.config.sizes import KIB, MIB

CPU = torch.device("cpu")


def tier(accounting: Accounting | None = None) -> HostTier:
    options = {} if accounting is None else {"label": accounting.label}
    return HostTier(Context(rank=0, ranks=1, device=CPU, dtype=torch.float32, **options))


def attention(x: Tensor, factor: Tensor) -> Tensor:
    """A block: [1, tokens, 64] -> the same, with two heads."""
    heads = (x * factor).unflatten(-1, (2, 32)).transpose(1, 2)
    out = F.scaled_dot_product_attention(heads, heads.sin(), heads.cos(), is_causal=True)
    return x + out.transpose(1, 2).flatten(2).tanh()


@pytest.mark.parametrize("checkpointing", ["blocks", "save-attention"])
def test_gradients_are_those_without_a_host_tier(checkpointing) -> None:
    x = torch.randn(1, 128, 64, generator=torch.Generator().manual_seed(1))
    factor = torch.tensor(1.5)
    gradients = []
    for run in (region(contexts_of(checkpointing)), hosted_region(checkpointing, tier())):
        start = x.clone().requires_grad_()
        out = start * 2
        for _ in range(3):
            out = run(attention, out, factor)
        out.square().sum().backward()
        gradients.append(start.grad)
    assert torch.equal(*gradients)


@pytest.mark.parametrize(
    ("checkpointing", "tensors"), [("blocks", 1), ("save-attention", 2)], ids=str
)
def test_the_accounting_counts_the_tier_and_its_copies(checkpointing, tensors) -> None:
    """Three inputs of 32 KiB; attention's outputs are as large, their log-sum-exps 1 KiB."""
    accounting = Accounting(CPU)
    run = hosted_region(checkpointing, tier(accounting))
    x = torch.ones(1, 128, 64, requires_grad=True)
    factor = torch.tensor(1.5)
    with accounting:
        out = x * 2
        for _ in range(3):
            out = run(attention, out, factor)
        out.sum().backward()
    hosted_bytes = 3 * (32 * tensors + tensors - 1) * KIB
    assert accounting.host_peak_bytes == hosted_bytes
    assert dict(accounting.copied_bytes) == {"to_host": hosted_bytes, "from_host": hosted_bytes}


def test_slots_are_used_a_second_time_and_strides_come_back() -> None:
    host = tier()
    host.begin_step(64)
    matrix = torch.arange(12.0).view(3, 4).t()
    hosted = host.store(matrix)
    slot = hosted.slot
    back = hosted.reload()
    assert back.stride() == matrix.stride()
    assert torch.equal(back, matrix)
    assert host.store(matrix + 1).slot is slot
    assert host.store(matrix).slot is not slot
    host.begin_step(128)
    assert host.take(48) is not slot, "slots of another length are forgotten"


def test_the_tier_ends_at_its_capacity() -> None:
    """Slots that wait for reuse count too. Slots of another length do not."""
    context = Context(rank=0, ranks=1, device=CPU, dtype=torch.float32)
    host = HostTier(context, 3 * KIB)
    host.begin_step(64)
    host.give_back(host.take(2 * KIB))
    host.take(KIB)
    words = r"3072 bytes and has taken 3072: 1024 more do not fit; take fewer tokens, more ranks"
    with pytest.raises(HostTierFull, match=words):
        host.take(KIB)
    host.take(2 * KIB)
    host = HostTier(context, 3 * KIB)
    host.begin_step(64)
    host.give_back(host.take(2 * KIB))
    host.begin_step(128)
    assert host.take(3 * KIB).numel() == 3 * KIB


def test_an_emulated_tier_counts_beyond_its_capacity() -> None:
    def take(size_bytes: int, device: torch.device) -> Tensor:
        return torch.empty(size_bytes, dtype=torch.uint8, device=device)

    context = Context(rank=0, ranks=1, device=CPU, dtype=torch.float32, take_host=take)
    assert HostTier(context, KIB).take(2 * KIB).numel() == 2 * KIB


def test_a_hosted_tensor_is_dense_and_read_once() -> None:
    host = tier()
    with pytest.raises(AssertionError, match="gaps"):
        host.store(torch.ones(4, 4)[:, :2])
    hosted = host.store(torch.ones(4))
    hosted.reload()
    with pytest.raises(AssertionError, match="read once"):
        hosted.reload()


def test_the_tier_is_no_private_memory() -> None:
    host = tier()
    before_bytes = private_bytes()
    slots = [host.take(16 * MIB) for _ in range(4)]
    for slot in slots:
        slot.fill_(1)
    assert private_bytes() - before_bytes < 8 * MIB
