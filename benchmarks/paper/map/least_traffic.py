"""The messages that a kind of parallelism cannot do without, by the rules of emulated time.

Bytes of a rank and a step, in the order of the ranks: TP inside, then Ulysses, then the ring. What
recomputation sends again, float32 gradients and latencies are left out, so the sum is a floor.
"""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.emulation.result import Link, Traffic
from benchmarks.emulation.time.costs import message_seconds
from benchmarks.paper.map.degrees import PeerLayout
from sppo.config.hardware import Hardware
from sppo.config.workload import Workload
from sppo.plan.weights import parameter_count

TENSOR_COLLECTIVES = 8
"""Of a layer: two gathers and two sums forward, and as many backward."""

CONTEXT_PASSES = 3
"""K and V go round forward and backward; their gradients go round once."""


def message_floor_seconds(workload: Workload, layout: PeerLayout, profile: Hardware) -> float:
    """Seconds of the least messages of a rank, one after the other."""
    messages = least_messages(workload, layout)
    return sum(message_seconds(message, profile, workload.cluster) for message in messages)


def least_messages(workload: Workload, layout: PeerLayout) -> Iterator[Traffic]:
    """The least messages of a rank and a step, those of one kind together."""
    model = workload.model
    layers = model.layers // layout.pipeline_parallel
    sequences = workload.sequences_per_step * layout.model_ranks // workload.cluster.ranks
    tokens = sequences * workload.sequence_tokens // layout.ranks_of_a_stage
    column_bytes = layers * tokens * workload.element_bytes
    tensor, ulysses, context = (
        layout.tensor_parallel,
        layout.sequence_parallel,
        layout.context_parallel,
    )
    if ulysses > 1:  # Q, K, V to the heads and the output back; their gradients the other way
        held = 2 * 2 * (model.hidden + model.kv_width) * column_bytes
        yield _message(workload, "all_to_all", ulysses, tensor, held * (ulysses - 1) // ulysses)
    if context > 1:
        held = CONTEXT_PASSES * 2 * model.kv_width * column_bytes
        stride = tensor * ulysses
        yield _message(workload, "all_gather", context, stride, held * (context - 1))
    if tensor > 1:
        held = TENSOR_COLLECTIVES * model.hidden * column_bytes
        yield _message(workload, "all_gather", tensor, 1, held * (tensor - 1))
    replicas = workload.cluster.ranks // layout.weight_shards
    if replicas > 1:  # weights gathered once, their gradients summed once
        held = 2 * workload.element_bytes * parameter_count(model) // layout.weight_shards
        yield _message(workload, "all_gather", replicas, tensor, held * (replicas - 1) // replicas)


def _message(
    workload: Workload, operation: str, members: int, stride: int, sent_bytes: int
) -> Traffic:
    """One kind of message in the group of rank 0."""
    last = (members - 1) * stride
    near = last < workload.cluster.ranks_per_node
    link: Link = "in node" if near else "between nodes"
    return Traffic(
        operation=operation,
        group=f"0-{last}" + (f" by {stride}" if stride > 1 else ""),
        group_ranks=members,
        link=link,
        calls=0,
        bytes=sent_bytes,
        sent_bytes=sent_bytes,
    )
