"""An emulation's parts, without a library: hindsight, messages, settings and verdicts."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import msgspec
import pytest
import torch
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint

from baselines.deepspeed.settings import DeepSpeedSettings
from baselines.megatron.settings import MegatronSettings
from baselines.megatron.te_rules import WITHOUT_TE
from baselines.native.settings import NativeSettings
from baselines.protocol import Role, roles_of
from baselines.registry import load
from benchmarks.accounting.accounting import Accounting
from benchmarks.accounting.memory_timeline import Journal, StepMemory
from benchmarks.accounting.operators import Message, sent_bytes
from benchmarks.commands.arguments import UsageError
from benchmarks.commands.planning.emulate import Emulate, asked_roles
from benchmarks.emulation import tables as emulation_tables
from benchmarks.emulation.counts import counts_of, group_text, link_of, operations_of
from benchmarks.emulation.result import Counts, Emulation, Planned, RoleReport, failed, verdict
from benchmarks.workloads import of_flags
from sppo.config.sizes import GIB
from sppo.config.workload import Cluster

CPU = torch.device("cpu")
FLOATS = 1024
KIB4 = 4 * FLOATS
WORKLOAD = of_flags(model="gpt-7b", seq="1M", gpus=32, hardware="a100-80g")
TWO_NODES = Cluster(hardware="test", device="cpu", nodes=2, ranks_per_node=4)


def train_two_sequences(accounting: Accounting) -> None:
    """Two forwards of two exponentials each, then their backwards; results are kept for them."""
    weight = torch.zeros(FLOATS, requires_grad=True)
    accounting.adopt("weights", [weight])
    with accounting:
        losses = [(weight * 1.0).exp().exp().sum() for _ in range(2)]
        for loss in losses:
            loss.backward()
        torch.zeros(FLOATS).add_(1)


def memory_of_two_sequences() -> tuple[StepMemory, Accounting]:
    journal = Journal()
    accounting = Accounting(CPU, journal)
    train_two_sequences(accounting)
    accounting.close()
    return journal.replay(), accounting


def test_what_a_backward_finds_was_kept_from_its_first_byte_on() -> None:
    memory, accounting = memory_of_two_sequences()
    assert memory.peak_bytes == accounting.peak_bytes
    assert accounting.peak_by_kind["activations"] == 0, "nobody labelled them"
    two_results_of_each, scalars = 2 * 2 * KIB4, 16
    assert 0 <= memory.peak_by_kind["activations"] - two_results_of_each <= scalars
    assert memory.peak_by_kind["weights"] == KIB4
    assert memory.at_peak_by_kind["activations"] > 0
    assert sum(memory.at_peak_by_kind.values()) == memory.peak_bytes


def test_the_position_of_the_peak_names_its_backward() -> None:
    memory, _ = memory_of_two_sequences()
    position = memory.peak_at
    assert (position.phase, position.backwards, position.all_backwards) == ("backward", 1, 2)
    assert 0 < position.share < 1
    assert memory.curve[-1].share == 1
    assert max(point.device_bytes for point in memory.curve) == memory.peak_bytes


def test_a_broken_step_says_how_far_it_came() -> None:
    journal = Journal()
    assert journal.progress() == "its beginning"
    journal.operate("mm", False)
    assert journal.progress() == "forward, 0 backward passes done"
    journal.operate("mm", True)
    assert journal.progress() == "backward 1"


def test_a_buffer_that_outlives_the_step_is_no_activation() -> None:
    journal = Journal()
    accounting = Accounting(CPU, journal)
    weight = torch.zeros(FLOATS, requires_grad=True)
    with accounting:
        buffer = torch.zeros(FLOATS)
        (weight * 1.0).exp().sum().backward()
    memory = journal.replay()
    assert buffer.nbytes == KIB4
    assert KIB4 <= memory.peak_by_kind["activations"] < 2 * KIB4
    accounting.close()


@pytest.mark.parametrize("recomputed", [False, True])
def test_recomputed_products_are_no_gradients(recomputed: bool) -> None:
    accounting = Accounting(CPU)
    first, second = (torch.randn(8, 8, requires_grad=True) for _ in range(2))
    inputs = torch.randn(16, 8, requires_grad=True)

    def block(x: torch.Tensor) -> torch.Tensor:
        heads = F.linear(x, first).view(1, 2, 16, 4)
        heads = F.scaled_dot_product_attention(heads, heads, heads, is_causal=True)
        return F.linear(heads.reshape(16, 8), second).square()

    with accounting:
        out = checkpoint(block, inputs, use_reentrant=True) if recomputed else block(inputs)
        out.sum().backward()
    accounting.close()
    forward = 2 * (2 * 16 * 8 * 8)
    attention = 4 * 2 * 4 * (16 * 17 // 2)
    operations = operations_of(accounting)
    assert operations.matmul == (4 if recomputed else 3) * forward
    assert operations.recomputed == (forward + attention if recomputed else 0)
    assert operations.attention_causal * 2 == attention * (9 if recomputed else 7)
    assert operations.attention_full > operations.attention_causal


def test_copies_between_the_tiers_are_counted_by_direction() -> None:
    accounting = Accounting(CPU)
    host = torch.zeros(FLOATS, device="meta")
    accounting.label("host", host)
    with accounting:
        device = torch.zeros(FLOATS, device="meta")
        host.copy_(device)
        host.copy_(host)
    assert accounting.copied_bytes == {"to_host": KIB4}
    accounting.close()


@pytest.mark.parametrize(
    ("ranks", "text", "link"),
    [
        ((0, 1, 2, 3), "0-3", "in node"),
        ((0, 2, 4, 6), "0-6 by 2", "between nodes"),
        ((4, 5), "4,5", "in node"),
        ((0, 1, 5), "0,1,5", "between nodes"),
    ],
)
def test_groups_and_links(ranks: tuple[int, ...], text: str, link: str) -> None:
    message = Message("all_gather", ranks)
    assert group_text(message) == text
    assert link_of(message, TWO_NODES) == link


def test_a_message_from_rank_to_rank_says_which_way() -> None:
    assert group_text(Message("recv", (8, 0))) == "8 > 0"


@pytest.mark.parametrize(
    ("operation", "expected"),
    [("all_gather", 750), ("all_reduce", 1500), ("broadcast", 1000), ("recv", 0), ("barrier", 0)],
)
def test_what_a_rank_must_send(operation: str, expected: int) -> None:
    assert sent_bytes(Message(operation, (0, 1, 2, 3)), 1000) == expected


def flags(system: str, **given: Any) -> Emulate:
    return Emulate(system=system, model="gpt-7b", seq="1M", gpus=32, **given)


def test_flags_become_the_settings_of_their_system() -> None:
    layout = flags("megatron", tensor_parallel=8, pipeline_parallel=4, recompute="full")
    megatron = layout.settings(WORKLOAD)
    assert megatron == MegatronSettings(
        tensor_parallel=8, pipeline_parallel=4, sequence_parallel=True, recompute="full"
    )
    replicas = flags("megatron", tensor_parallel=8, recompute="mlp").settings(WORKLOAD)
    assert replicas.distributed_optimizer
    assert replicas.recompute_modules == ("mlp",)
    assert flags("megatron", zero=0).settings(WORKLOAD).distributed_optimizer is False
    assert flags("deepspeed", zero=3, recompute="5").settings(WORKLOAD) == DeepSpeedSettings(
        sequence_parallel=32, zero_stage=3, checkpointing="blocks", checkpointed_layers=5
    )
    native = flags("native", zero=2, recompute="save-attention:8").settings(WORKLOAD)
    assert native == NativeSettings(
        sequence_parallel=32,
        reshard_after_forward=False,
        checkpointing="save-attention",
        checkpointed_layers=8,
    )
    assert flags("native").settings(WORKLOAD).reshard_after_forward
    tensor = flags("native", tensor_parallel=8, context_parallel=2).settings(WORKLOAD)
    assert (tensor.tensor_parallel, tensor.sequence_parallel) == (8, 2)


@pytest.mark.parametrize(
    ("system", "given", "word"),
    [
        ("megatron", {"sequence_parallel": 4}, "--sequence-parallel"),
        ("deepspeed", {"tensor_parallel": 8}, "--tensor-parallel"),
        ("deepspeed", {"recompute": "mlp"}, "--recompute mlp"),
        ("megatron", {"zero": 3}, "--zero 3"),
        ("native", {"zero": 1}, "--zero 1: FSDP2 shards weights"),
        ("native", {"recompute": "mlp"}, "--recompute mlp: PyTorch native takes none"),
        ("native", {"recompute": "full:few"}, "--recompute full:few"),
        ("native", {"pipeline_parallel": 8}, "--pipeline-parallel"),
        ("megatron", {"recompute": "norms"}, "norms"),
        ("megatron", {"tensor_parallel": 0}, "tensor_parallel"),
        ("fsdp", {}, "megatron"),
    ],
)
def test_foreign_settings_are_refused_in_one_line(
    system: str, given: dict[str, Any], word: str
) -> None:
    with pytest.raises(UsageError, match=word) as refusal:
        flags(system, **given).settings(WORKLOAD)
    assert "\n" not in str(refusal.value)


def test_roles_cover_every_rank_once() -> None:
    settings = MegatronSettings(tensor_parallel=8, pipeline_parallel=4, sequence_parallel=True)
    roles = roles_of(load("megatron"), WORKLOAD, settings)
    assert [role.rank for role in roles] == [0, 8, 16, 24]
    assert sum(role.ranks for role in roles) == 32
    assert [role.name for role in asked_roles("0,9", roles, WORKLOAD)] == [
        "stage 0 (embedding), rank 0",
        "stage 1, rank 9",
    ]
    assert len(asked_roles("all", roles, WORKLOAD)) == 32
    with pytest.raises(UsageError, match="0 to 31"):
        asked_roles("0,32", roles, WORKLOAD)
    ulysses = roles_of(load("deepspeed"), WORKLOAD, DeepSpeedSettings(sequence_parallel=32))
    assert [role.ranks for role in ulysses] == [32]
    assert roles_of(load("native"), WORKLOAD, NativeSettings(sequence_parallel=32)) == ulysses


def small_counts() -> Counts:
    memory, accounting = memory_of_two_sequences()
    return counts_of(accounting, memory, 0, TWO_NODES)


def report(name: str, device_bytes: int, host_bytes: int = 0) -> RoleReport:
    counts = msgspec.structs.replace(
        small_counts(), peak_device_bytes=device_bytes, peak_host_bytes=host_bytes
    )
    return RoleReport(role=name, rank=0, ranks=1, status="ok", counts=counts)


def test_the_verdict_names_the_role_that_does_not_fit() -> None:
    fitting = [report("stage 0", 70 * GIB), report("stage 1", 60 * GIB)]
    result = verdict(fitting, WORKLOAD)
    assert (result["fits"], result["status"], result["limiting_role"]) == (True, "ok", "stage 0")
    result = verdict([*fitting, report("stage 2", 80 * GIB)], WORKLOAD)
    assert (result["fits"], result["status"], result["limiting_role"]) == (False, "oom", "stage 2")
    assert "80.00 GiB" in result["reason"]
    assert "backward 1 of 2" in result["reason"]
    result = verdict([report("stage 0", GIB, host_bytes=10**13)], WORKLOAD)
    assert result["status"] == "host_oom"


def test_a_failed_role_leaves_the_verdict_open_unless_another_does_not_fit() -> None:
    lost = failed(Role(name="stage 1", rank=8, ranks=8), "failed", "its words")
    result = verdict([report("stage 0", GIB), lost], WORKLOAD)
    assert result["fits"] is None
    assert result["status"] == "failed"
    assert "its words" in result["reason"]
    assert verdict([report("stage 0", 90 * GIB), lost], WORKLOAD)["fits"] is False


def emulation(planned: list[Planned]) -> Emulation:
    reports = [report("stage 0", 70 * GIB), failed(Role(name="s", rank=1, ranks=1), "failed", "no")]
    return Emulation(
        workload=replace(WORKLOAD, sequences_per_step=8),
        system="megatron",
        settings={},
        settings_text="TP8",
        capacity_bytes=WORKLOAD.device_memory_bytes,
        host_capacity_bytes=None,
        roles=reports,
        planned=planned,
        **verdict(reports, WORKLOAD),
    )


def test_a_plan_beside_the_counts_says_where_it_is_off() -> None:
    numbers = (
        ("peak_device_bytes", 5 * GIB, 4 * GIB),
        ("kv_bytes", GIB, GIB),
        ("copied_bytes", 0, 0),
        ("messages", 1234, 0),
    )
    planned = [
        Planned(role="stage 0", rank=0, quantity=quantity, planned=said, counted=seen)
        for quantity, said, seen in numbers
    ]
    text = emulation_tables.text(emulation(planned))
    row = [line for line in text.splitlines() if line.startswith("| stage 0")][-1]
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells == ["stage 0", "5.00 GiB (+25.00%)", "1.00 GiB", "0", "1,234 (counted: 0)"]


def test_tables_label_every_number() -> None:
    text = emulation_tables.text(emulation([]))
    assert f"megatron: {WITHOUT_TE}; " in text
    tables = [line for line in text.splitlines() if line.startswith("| emulated")]
    assert len(tables) == 3
    assert "s: failed, start: no" in text
    assert "8 sequences of 1M tokens" in text
