"""Seconds of collectives: SPPO's plans and the peers' emulated steps have one rule."""

from __future__ import annotations

import pytest

from benchmarks.emulation.result import Traffic
from benchmarks.emulation.time.costs import message_seconds
from sppo.config.hardware import load_hardware
from sppo.config.workload import Cluster
from sppo.cost_model.links import (
    Group,
    all_to_all_seconds,
    context_group,
    copies_group,
    gather_seconds,
    tensor_group,
    ulysses_group,
)

A100 = load_hardware("a100-80g")
CPU = load_hardware("cpu-2core")
CLUSTER = Cluster(hardware="a100-80g", device="cuda", nodes=16, ranks_per_node=8)
SIZE = 8 * 10**9

CASES = {
    "TP 8": (tensor_group(8), "0-7"),
    "TP 16": (tensor_group(16), "0-15"),
    "Ulysses 32": (ulysses_group(32, 32, 1), "0-31"),
    "TP 4 x Ulysses 8": (ulysses_group(32, 8, 1), "0-28 by 4"),
    "TP 8 x Ulysses 4": (ulysses_group(32, 4, 1), "0-24 by 8"),
    "Ulysses 2 x CP 4": (context_group(8, 4), "0-6 by 2"),
    "Ulysses 32 x CP 4": (context_group(128, 4), "0-96 by 32"),
    "copies of TP 4 x Ulysses 8": (copies_group(32, 4, 1, 1), "0-28 by 4"),
    "copies of SP 8 x PP 2 x DP 2": (copies_group(8, 8, 2, 2), "0,16"),
    "copies of SP 8 (Ulysses 8) x PP 2 x DP 2": (
        copies_group(8, 1, 2, 2),
        ",".join(map(str, (*range(8), *range(16, 24)))),
    ),
    "copies of DP 16": (copies_group(1, 1, 1, 16), "0-15"),
    "copies of SP 4 (Ulysses 4) x DP 4": (copies_group(4, 1, 1, 4), "0-15"),
    "copies of SP 2 x PP 2 x DP 4": (copies_group(2, 2, 2, 4), "0-12 by 4"),
}
"""A group by its degrees, and its ranks as an emulation writes them; ranks of TP are neighbours."""


def peers_seconds(operation: str, group: Group, ranks: str) -> float:
    """The rule for counted messages, without the latency of the call."""
    latencies = A100.p2p_latency_seconds, A100.internode_latency_seconds
    in_node = group.span <= A100.ranks_per_node
    traffic = Traffic(
        operation=operation,
        group=ranks,
        group_ranks=group.ranks,
        link="in node" if in_node else "between nodes",
        calls=1,
        bytes=SIZE,
        sent_bytes=SIZE * (group.ranks - 1) // group.ranks,
    )
    latency = latencies[0 if in_node else 1]
    assert latency is not None
    return message_seconds(traffic, A100, CLUSTER) - latency


@pytest.mark.parametrize("name", CASES)
def test_a_plan_and_an_emulation_charge_a_collective_alike(name: str) -> None:
    group, ranks = CASES[name]
    gathered = gather_seconds(A100, group, SIZE)
    assert gathered == pytest.approx(peers_seconds("all_gather", group, ranks), rel=1e-6)
    exchanged = all_to_all_seconds(A100, group, SIZE)
    assert exchanged == pytest.approx(peers_seconds("all_to_all", group, ranks), rel=1e-6)
    assert exchanged >= gathered * (1 - 1e-9)


def test_a_profile_without_nodes_has_one_link() -> None:
    seconds = gather_seconds(CPU, tensor_group(4), SIZE)
    assert seconds == SIZE * 3 / 4 / CPU.collective_bytes_per_second
    assert all_to_all_seconds(CPU, ulysses_group(4, 4, 1), SIZE) == pytest.approx(seconds)


def test_one_rank_sends_nothing() -> None:
    alone = tensor_group(1)
    assert gather_seconds(A100, alone, SIZE) == all_to_all_seconds(A100, alone, SIZE) == 0
