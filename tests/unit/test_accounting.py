"""Small programs whose bytes, FLOPs and messages can be counted by hand."""

from __future__ import annotations

import gc
import mmap
from collections.abc import Iterator

import pytest
import torch
import torch.distributed as dist
import torch.distributed._functional_collectives as functional
import torch.nn.functional as F
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.testing._internal.distributed.fake_pg import FakeStore

from benchmarks.accounting.accounting import Accounting
from benchmarks.accounting.operators import Message, causal_pairs, operator_flops

CPU = torch.device("cpu")
MIB = 2**20
MIB_FLOATS = MIB // 4


@pytest.fixture
def accounting() -> Iterator[Accounting]:
    counted = Accounting(CPU)
    yield counted
    counted.close()


def test_storages_are_counted_once_and_until_they_are_gone(accounting: Accounting) -> None:
    with accounting:
        first = torch.zeros(MIB_FLOATS)
        views = [first[10:], first.view(2, -1), first.t()]
        assert accounting.live_bytes == MIB
        second = first + 1
        assert accounting.live_bytes == 2 * MIB
        del first
        assert accounting.live_bytes == 2 * MIB, "the views hold it"
        del views
        assert accounting.live_bytes == MIB
        second.add_(1)
        assert accounting.live_bytes == MIB
        del second
    assert accounting.live_bytes == 0
    assert accounting.peak_bytes == 2 * MIB
    assert +accounting.at_peak_by_kind == {"temporary": 2 * MIB}


def test_labels_move_bytes_and_correct_the_breakdown(accounting: Accounting) -> None:
    with accounting:
        kv = torch.zeros(MIB_FLOATS)
        accounting.label("kv", kv[3:])
        kept = torch.zeros(2 * MIB_FLOATS)
        accounting.label("activations", kept)
        assert accounting.live["temporary"] == 0
        assert accounting.live["activations"] == 2 * MIB
        accounting.label("temporary", kept)
        del kept
        dkv = torch.zeros(2 * MIB_FLOATS)
        accounting.label("dkv", dkv)
    assert accounting.peak_bytes == 3 * MIB
    assert accounting.activation_peak_bytes == 3 * MIB
    assert accounting.peak_by_kind["activations"] == 2 * MIB
    assert +accounting.at_peak_by_kind == {"kv": MIB, "dkv": 2 * MIB}


def test_the_host_tier_is_no_part_of_the_device(accounting: Accounting) -> None:
    arena = torch.frombuffer(mmap.mmap(-1, 4 * MIB), dtype=torch.uint8)
    accounting.label("host", arena)
    assert accounting.live_bytes == 0
    with accounting:
        held = torch.zeros(MIB_FLOATS)
        arena[:MIB].view(torch.float32).copy_(held)
        meta = torch.zeros(MIB_FLOATS, device="meta")
        nothing = torch.zeros(MIB_FLOATS, device="meta")
        accounting.label("host", meta)
    assert accounting.peak_bytes == MIB
    assert accounting.host_peak_bytes == 5 * MIB
    del meta, nothing


def test_what_was_there_before_counts_if_it_is_adopted_seen_or_labelled(
    accounting: Accounting,
) -> None:
    gc.collect()  # tensors of other tests would be seen too, and vanish in between
    weight = torch.zeros(MIB_FLOATS)
    buffer = torch.zeros(2 * MIB_FLOATS)
    mapped = torch.zeros(4 * MIB_FLOATS)
    accounting.ignore([mapped])
    accounting.adopt("weights", [weight])
    assert accounting.live_bytes == MIB
    accounting.adopt_visible()
    before_bytes = accounting.live_bytes
    assert before_bytes >= 3 * MIB
    del mapped
    gc.collect()
    assert accounting.live_bytes == before_bytes, "ignored, so it frees nothing"
    del buffer
    assert accounting.live_bytes == before_bytes - 2 * MIB
    with accounting:
        pass
    assert accounting.peak_bytes == accounting.live_bytes


def test_resized_storages_are_read_again(accounting: Accounting) -> None:
    with accounting:
        shard = torch.zeros(MIB_FLOATS)
        shard.untyped_storage().resize_(0)
        assert accounting.live_bytes == 0
        shard.untyped_storage().resize_(MIB)
        assert accounting.live_bytes == MIB
        shard.resize_(3 * MIB_FLOATS)
        assert accounting.live_bytes == 3 * MIB
        shard.set_(torch.zeros(MIB_FLOATS))
        assert accounting.live_bytes == MIB


def test_a_backward_pass_and_its_gradients(accounting: Accounting) -> None:
    rows, width = 512, 128
    weight = torch.randn(width, width, requires_grad=True)
    inputs = torch.randn(rows, width)
    accounting.adopt("weights", [weight])
    with accounting:
        F.linear(inputs, weight).square().sum().backward()
    assert accounting.flops["aten.mm"] == 2 * 2 * rows * width * width
    assert accounting.live["gradients"] == weight.nbytes
    assert accounting.peak_by_kind["weights"] == weight.nbytes
    assert accounting.peak_bytes >= 2 * 4 * rows * width


@pytest.mark.parametrize("causal", [False, True])
def test_flops_of_attention(accounting: Accounting, causal: bool) -> None:
    batch, heads, tokens, width = 2, 3, 64, 16
    shape = (batch, heads, tokens, width)
    query, key, value = (torch.randn(shape, requires_grad=True) for _ in range(3))
    with accounting:
        F.scaled_dot_product_attention(query, key, value, is_causal=causal).sum().backward()
    name = "aten._scaled_dot_product_flash_attention_for_cpu"
    kept = causal_pairs(tokens, tokens) if causal else tokens**2
    per_pair = batch * heads * width
    assert accounting.flops[name] == 4 * per_pair * kept
    assert accounting.flops[f"{name}_backward"] == 10 * per_pair * kept
    assert accounting.flops[f"{name} (masked)"] == 4 * per_pair * (tokens**2 - kept)
    assert sum(accounting.flops.values()) == 14 * per_pair * tokens**2


def test_products_into_a_given_tensor_count_too(accounting: Accounting) -> None:
    left, right, total = torch.randn(8, 16), torch.randn(16, 4), torch.zeros(8, 4)
    with accounting:
        total.addmm_(left, right)
        torch.addmm(total, left, right, out=total)
        torch.mm(left, right, out=total)
        torch.baddbmm(total[None], left[None], right[None])
    each = 2 * 8 * 16 * 4
    assert accounting.flops == {
        "aten.addmm_": each,
        "aten.addmm": each,
        "aten.mm": each,
        "aten.baddbmm": each,
    }


def test_grouped_heads_count_by_query_heads(accounting: Accounting) -> None:
    query = torch.randn(1, 4, 8, 16)
    key = torch.randn(1, 2, 32, 16)
    with accounting:
        F.scaled_dot_product_attention(query, key, key, enable_gqa=True)
    assert sum(accounting.flops.values()) == 4 * 4 * 8 * 32 * 16


@pytest.mark.parametrize(("queries", "keys"), [(5, 5), (3, 7), (7, 3), (1, 1)])
def test_causal_pairs(queries: int, keys: int) -> None:
    mask = torch.ones(queries, keys, dtype=torch.bool)
    assert causal_pairs(queries, keys) == int(mask.tril().sum())
    lower_right = mask.tril(keys - queries)
    assert causal_pairs(queries, keys, lower_right=True) == int(lower_right.sum())


@pytest.mark.parametrize(("kind", "diagonal"), [("", 6), ("_for_cpu", 0)])
def test_flash_attention_of_cuda_masks_from_the_lower_right(kind: str, diagonal: int) -> None:
    """As Megatron's context parallelism calls the operator: later queries, all keys before."""
    queries, keys, width = 4, 10, 16
    name = f"_scaled_dot_product_flash_attention{kind}"
    operator = getattr(torch.ops.aten, name).default
    tensors = [torch.empty(1, 2, tokens, width, device="meta") for tokens in (queries, keys, keys)]
    flops = dict(operator_flops(operator, (*tensors, 0.0, True), {}, None))
    mask = torch.ones(queries, keys, dtype=torch.bool).tril(diagonal)
    assert flops[f"aten.{name}"] == 2 * 2 * 2 * width * int(mask.sum())
    assert sum(flops.values()) == 2 * 2 * 2 * width * queries * keys


def test_collectives_count_calls_and_the_larger_side(accounting: Accounting) -> None:
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        data = torch.ones(256)
        with accounting:
            dist.all_reduce(data)
            dist.all_reduce(data)
            dist.all_gather([torch.empty(256)], data)
            dist.all_to_all_single(torch.empty(256), data)
            dist.barrier()
    finally:
        dist.destroy_process_group()
    assert accounting.messages.collective_calls["allreduce_"] == 2
    assert accounting.messages.collective_bytes["allreduce_"] == 2 * 1024
    assert accounting.messages.collective_bytes["allgather_"] == 1024
    assert accounting.messages.collective_bytes["alltoall_base_"] == 1024
    assert accounting.messages.collective_calls["barrier"] == 1
    assert accounting.messages.collective_bytes["barrier"] == 0


def test_a_permutation_is_a_send_to_the_next(accounting: Accounting) -> None:
    """torch sends it by an all-to-all in which each rank has one receiver."""
    dist.init_process_group("fake", store=FakeStore(), rank=1, world_size=4)
    try:
        with accounting:
            around = functional.permute_tensor(torch.ones(256), [1, 2, 3, 0], dist.group.WORLD)
            functional.wait_tensor(around)
            even = functional.all_to_all_single(torch.ones(256), None, None, dist.group.WORLD)
            functional.wait_tensor(even)
    finally:
        dist.destroy_process_group()
    assert dict(accounting.messages.bytes) == {
        Message("send", (1, 2)): 1024,
        Message("all_to_all", (0, 1, 2, 3)): 1024,
    }


def step(accounting: Accounting) -> None:
    weight = torch.zeros(64, 64, requires_grad=True)
    accounting.adopt("weights", [weight])
    with accounting:
        query = F.linear(torch.zeros(128, 64), weight).view(1, 128, 4, 16).transpose(1, 2)
        F.scaled_dot_product_attention(query, query, query, is_causal=True).sum().backward()


def test_fake_tensors_are_counted_like_real_ones() -> None:
    real, fake = Accounting(CPU), Accounting(CPU)
    step(real)
    with FakeTensorMode():
        step(fake)
    assert fake.peak_bytes == real.peak_bytes
    assert fake.flops == real.flops
    assert fake.peak_by_kind == real.peak_by_kind


def test_after_close_nothing_is_counted(accounting: Accounting) -> None:
    original = torch.UntypedStorage.resize_
    weight = torch.zeros(8, requires_grad=True)
    accounting.adopt("weights", [weight])
    with accounting:
        assert torch.UntypedStorage.resize_ is not original
    accounting.close()
    live_bytes = accounting.live_bytes
    accounting.label("kv", torch.zeros(100))
    weight.sum().backward()
    assert accounting.live_bytes == live_bytes
    assert torch.UntypedStorage.resize_ is original


def test_what_lies_beside_tracked_tensors_is_read_after_every_operator() -> None:
    untracked_bytes = 5 * MIB
    counted = Accounting(CPU, held_bytes=lambda: counted.live_bytes + untracked_bytes)
    with counted:
        first = torch.zeros(MIB_FLOATS)
        untracked_bytes = 7 * MIB
        second = first + 1
        untracked_bytes = 6 * MIB
        with pytest.raises(RuntimeError, match="size of tensor"):
            second.add_(torch.zeros(3))
    counted.close()
    assert counted.untracked_peak_bytes == 2 * MIB
    assert counted.refused == (2 * MIB + 12, MIB)
    assert Accounting(CPU).untracked_peak_bytes is None
