"""Faults in the engine's streams, messages and collectives, which the proof must see."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from sppo.comm.collectives import CollectiveWork, Team
from sppo.comm.messages import Channel, GroupTransport
from sppo.comm.stage_ranks import StageRanks
from sppo.engine.msp_part import MspPart
from sppo.engine.optimizer import FlatAdamW
from sppo.model.block_shards import BlockShards
from sppo.model.mixers.hosted_layer import HostedLayer, KvLoad, KvRing
from sppo.model.mixers.kv_block import KvBlock
from sppo.offload.host_memory import (
    DONE,
    CopyEvent,
    CopyStreams,
    contiguous_pieces,
)

Patch = pytest.MonkeyPatch


@dataclass(frozen=True, kw_only=True)
class Fault:
    """`plant` breaks the engine until the patch is undone. case: one that must show it.

    sign: words of the finding. seen_by_values: real numbers come out wrong, too. on_fake_cuda: a
    rank whose accesses on fake CUDA tensors show it; None where other ranks are needed.
    """

    plant: Callable[[Patch], None]
    case: str
    sign: str
    seen_by_values: bool = True
    on_fake_cuda: int | None = None


def _copy_without(waits_for: str) -> Callable[..., None]:
    """`CopyStreams._copy` without one of its two waits."""

    def _copy(self: Any, stream: Any, into: Tensor, source: Tensor, after: Any) -> None:
        if waits_for != "compute":
            stream.wait_stream(torch.cuda.current_stream(self._device))
        for event in after if waits_for != "opposite" else ():
            event.wait(stream)
        with torch.cuda.stream(stream):
            for piece, its_source in contiguous_pieces(into, source):
                piece.copy_(its_source, non_blocking=True)

    return _copy


def _no_wait_for_compute(patch: Patch) -> None:
    patch.setattr(CopyStreams, "_copy", _copy_without("compute"))


def _no_wait_for_opposite(patch: Patch) -> None:
    patch.setattr(CopyStreams, "_copy", _copy_without("opposite"))


def _freed_without_a_wait(patch: Patch) -> None:
    patch.setattr(CopyStreams, "wait_for_offloads", lambda self: self._offloading.clear())


def _no_wait_for_arrival(patch: Patch) -> None:
    patch.setattr(CopyEvent, "wait", lambda self, stream=None: None)


def _source_not_held(patch: Patch) -> None:
    def copy_to_host(self: Any, source: Tensor, into: Tensor, *after: Any) -> None:
        self._copy(self._d2h, into, source, after)

    patch.setattr(CopyStreams, "copy_to_host", copy_to_host)


def recorded_on(direction: str) -> Callable[[Patch], None]:
    """`record_stream` in place of a held source: right on "_d2h", a fault on "_h2d"."""

    def plant(patch: Patch) -> None:
        def copy_to_host(self: Any, source: Tensor, into: Tensor, *after: Any) -> None:
            self._copy(self._d2h, into, source, after)
            source.record_stream(getattr(self, direction))

        patch.setattr(CopyStreams, "copy_to_host", copy_to_host)

    return plant


def _wait_after_use(patch: Patch) -> None:
    def blocks(self: Any, start: int, kinds: int) -> Iterator[tuple[KvLoad, KvBlock]]:
        loads = self._loads(start, kinds, (self._kept, self.gradients.written))
        ahead = next(loads, None)
        while ahead is not None:
            load, host = ahead
            ahead = next(loads, None)
            yield load, host
            load.event.wait()

    patch.setattr(HostedLayer, "_blocks", blocks)


def _slot_reused(patch: Patch) -> None:
    original = KvRing.fill

    def fill(self: KvRing, number: int, *rest: Any) -> KvLoad:
        return original(self, 0, *rest)

    patch.setattr(KvRing, "fill", fill)


def _slot_without_its_offload(patch: Patch) -> None:
    original = KvRing.offload_gradients

    def offload_gradients(self: Any, load: KvLoad, host: KvBlock) -> None:
        original(self, load, host)
        self._offloads[load.place] = DONE

    patch.setattr(KvRing, "offload_gradients", offload_gradients)


def _event_on_the_wrong_stream(patch: Patch) -> None:
    patch.setattr(CopyStreams, "h2d_event", lambda self: CopyEvent(self._d2h.record_event()))


def _send_not_flushed(patch: Patch) -> None:
    original = MspPart.send_gradients

    def send_gradients(self: MspPart, owner: int) -> None:
        transport = self.group.transport
        flush = transport.flush
        transport.flush = lambda *channels: None  # type: ignore[method-assign]
        try:
            original(self, owner)
        finally:
            transport.flush = flush  # type: ignore[method-assign]

    patch.setattr(MspPart, "send_gradients", send_gradients)


def _receive_not_waited_for(patch: Patch) -> None:
    class Forgotten:
        def wait(self) -> None:
            """Returns at once."""

    original = GroupTransport.receive

    def receive(self: Any, into: Tensor, peer: int, channel: Any = Channel.PIPELINE) -> Any:
        original(self, into, peer, channel)
        return Forgotten()

    patch.setattr(GroupTransport, "receive", receive)


def _states_sent_before_they_are_loaded(patch: Patch) -> None:
    original = HostedLayer.load

    def load(self: HostedLayer, *where: Any) -> Tensor:
        copies = self.ring.copies
        with pytest.MonkeyPatch.context() as without:
            without.setattr(copies, "h2d_event", lambda: DONE)
            return original(self, *where)

    patch.setattr(HostedLayer, "load", load)


def _one_group_for_both_directions(patch: Patch) -> None:
    original = GroupTransport.__init__

    def init(self: Any, *args: Any, **kwargs: Any) -> None:
        original(self, *args, **kwargs)
        shared = self._groups[Channel.PIPELINE, True]
        self._groups = dict.fromkeys(self._groups, shared)

    patch.setattr(GroupTransport, "__init__", init)


def _reversed_on_one_replica(patch: Patch) -> None:
    def reduce(self: Any, shards: Team) -> None:
        if shards.size > 1:
            shards.all_reduce(self.weights.vector_gradients[: self.weights.whole_elements])
        if self.copies.size == 1:
            return
        pairs = list(zip(self._gradients, self._pieces, strict=True))
        if self.copies.index == 1:
            pairs.reverse()
        for gradient, piece in pairs:
            self.copies.reduce_scatter(gradient, into=piece).wait()

    patch.setattr(FlatAdamW, "reduce", reduce)


def _block_used_before_its_gather(patch: Patch) -> None:
    def use(self: BlockShards, layer: int, upcoming: int | None) -> None:
        self._gather(layer)
        del self._gathers[layer]
        if upcoming is not None:
            self._gather(upcoming)

    patch.setattr(BlockShards, "use", use)


def _sum_not_waited_for(patch: Patch) -> None:
    def end_sum(self: BlockShards, buffer: int) -> None:
        if buffer in self._sums:
            _, row = self._sums.pop(buffer)
            own = self.gradients[buffer].chunk(self.copies.size)[self.copies.index]
            self.piece_gradients[row].add_(own)

    patch.setattr(BlockShards, "_end_sum", end_sum)


def _one_buffer_for_all_blocks(patch: Patch) -> None:
    patch.setattr(BlockShards, "_buffer", lambda self, layer: 0)


def _piece_not_waited_for(patch: Patch) -> None:
    put_run = StageRanks.put_run

    def early(self: StageRanks, into: Tensor, run: slice, work: Any, widths: Any) -> None:
        result = work.wait.tensors[-1]
        put_run(self, into, run, CollectiveWork(lambda: result if work else into), widths)

    patch.setattr(StageRanks, "put_run", early)


_HOSTED, _MSP, _OFFLOADED = "K and V hosted", "PP 2, MSP", "all offloaded"
_SHARDED = "SP 2 (Ulysses 2), sharded weights"
_UNORDERED, _FREED = "without an order", "freed while another stream uses it"

FAULTS = {
    "a copy does not wait for compute": Fault(
        plant=_no_wait_for_compute, case=_OFFLOADED, sign=_UNORDERED, on_fake_cuda=0
    ),
    "a copy does not wait for the opposite direction": Fault(
        plant=_no_wait_for_opposite, case=_HOSTED, sign=_UNORDERED, on_fake_cuda=0
    ),
    "offloaded memory is freed without a wait": Fault(
        plant=_freed_without_a_wait, case=_OFFLOADED, sign=_FREED, on_fake_cuda=0
    ),
    "a reload is not waited for": Fault(
        plant=_no_wait_for_arrival, case=_OFFLOADED, sign=_UNORDERED, on_fake_cuda=0
    ),
    "the source of a copy is not held": Fault(
        plant=_source_not_held, case=_OFFLOADED, sign=_FREED, on_fake_cuda=0
    ),
    "record_stream names the wrong stream": Fault(
        plant=recorded_on("_h2d"), case=_OFFLOADED, sign=_FREED, on_fake_cuda=0
    ),
    "a wait comes after the use": Fault(
        plant=_wait_after_use, case=_HOSTED, sign=_UNORDERED, on_fake_cuda=0
    ),
    "a slot is reused before its copy has ended": Fault(
        plant=_slot_reused, case=_HOSTED, sign=_UNORDERED, on_fake_cuda=0
    ),
    "a slot does not wait for its own offload": Fault(
        plant=_slot_without_its_offload, case=_HOSTED, sign=_UNORDERED, on_fake_cuda=0
    ),
    "an event is recorded on the wrong stream": Fault(
        plant=_event_on_the_wrong_stream, case=_OFFLOADED, sign=_UNORDERED, on_fake_cuda=0
    ),
    "a sent tensor is cleared before the send has ended": Fault(
        plant=_send_not_flushed,
        case=_MSP,
        sign=_UNORDERED,
        seen_by_values=False,  # only where the receiver's thread comes after the clearing
    ),
    "a receive is not waited for": Fault(plant=_receive_not_waited_for, case=_MSP, sign=_UNORDERED),
    "hosted K and V are sent before they are loaded": Fault(
        plant=_states_sent_before_they_are_loaded,
        case="PP 2, two chunks a stage, MSP, K and V hosted",
        sign=_UNORDERED,
    ),
    "both directions share a communicator": Fault(
        plant=_one_group_for_both_directions,
        case="PP 2, two chunks a stage",
        sign="waits in",
        seen_by_values=False,
    ),
    "a block is used before its weights are gathered": Fault(
        plant=_block_used_before_its_gather, case=_SHARDED, sign=_UNORDERED
    ),
    "the next block is gathered into a buffer in use": Fault(
        plant=_one_buffer_for_all_blocks, case=_SHARDED, sign=_UNORDERED
    ),
    "gradients of a block are read before they are summed": Fault(
        plant=_sum_not_waited_for, case=_SHARDED, sign=_UNORDERED
    ),
    "a piece is read before its exchange has ended": Fault(
        plant=_piece_not_waited_for, case="SP 2 (Ulysses 2) in two pieces", sign=_UNORDERED
    ),
    "collectives in another order on one rank": Fault(
        plant=_reversed_on_one_replica,
        case="DP 2",
        sign="collective",
    ),
}
