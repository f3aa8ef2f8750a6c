"""Runs a schedule, instruction by instruction. All decisions are in the schedule and the plan."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import permutations
from typing import NamedTuple

import torch
from torch import Tensor

from sppo.comm.mesh import RankGroups
from sppo.comm.messages import Channel, Connection
from sppo.engine.context import EngineContext
from sppo.engine.device_room import check_room
from sppo.engine.msp_part import MspPart
from sppo.engine.part import Part
from sppo.engine.stage import Stage
from sppo.model.weights import StageWeights
from sppo.plan.plan import Plan
from sppo.schedule.build import build_schedule
from sppo.schedule.check import check_schedule
from sppo.schedule.dependencies import (
    Schedule,
    carries_msp_weights,
    matching_receive,
    message_tokens,
    needed_receives,
    peer_of,
    sides_of,
)
from sppo.schedule.instructions import SENDS, Instruction, Op


class TimedInstruction(NamedTuple):
    """One instruction of the last step; `start_ns` is after the wait for its messages."""

    instruction: Instruction
    start_ns: int
    end_ns: int


@dataclass(kw_only=True)
class StepCounters:
    """Loss, bytes and times of one rank in one step.

    loss: this rank's share. Bytes: offloaded and reloaded saved tensors, and K, V, dK and dV
    between host and device.
    """

    loss: float = 0.0
    offloaded_bytes: int = 0
    fetched_bytes: int = 0
    kv_moved_bytes: int = 0
    timeline: list[TimedInstruction] = field(default_factory=list)


class Engine:
    """One rank's share of a schedule."""

    def __init__(self, schedule: Schedule, stage: Stage) -> None:
        self.schedule = schedule
        self.stage = stage
        self.transport = stage.groups.transport
        self._handlers: dict[Op, Callable[[Instruction], None]] = {
            Op.RECV_F: self._receive,
            Op.RECV_B: self._receive,
            Op.FORWARD: self._forward,
            Op.BACKWARD: self._backward,
            Op.SEND_F: self._send,
            Op.SEND_B: self._send,
            Op.OFFLOAD: self._offload,
            Op.RELOAD: self._reload,
            Op.ZERO_DKV: self._clear_dkv,
            **dict.fromkeys((Op.SEND_W, Op.RECV_W, Op.SEND_DW, Op.RECV_DW), self._msp_message),
            Op.ADD_DW: lambda instruction: None,  # the wait for RECV_DW has added the gradients
        }
        layout, instructions = schedule.layout, schedule.stages[stage.index]
        computes = [each for each in instructions if each.op in (Op.FORWARD, Op.BACKWARD)]
        self._needed = {each: needed_receives(schedule, each) for each in instructions}
        self._inputs = {each: sides_of(layout, each, reads=True) for each in computes}
        self._outputs = {each: sides_of(layout, each, reads=False) for each in computes}
        self._notes = {each: f"stage {stage.index}, {_note(each)}" for each in instructions}
        needed = {receive for receives in self._needed.values() for receive in receives}
        self._wait_notes = {each: f"stage {stage.index}, waits for {each}" for each in needed}
        self._reset(torch.empty(0), 1.0)

    def _reset(self, tokens: Tensor, scale: float) -> None:
        self._tokens = tokens
        self._scale = scale
        # Waits of posted receives; hidden states and gradients by the receive or send of them.
        self._waits: dict[Instruction, Callable[[], object]] = {}
        self._tensors: dict[Instruction, Tensor] = {}
        self._losses: list[Tensor] = []
        self.counters = StepCounters()

    def run(self, tokens: Tensor, scale: float) -> StepCounters:
        """tokens: int64 [sequences, S + 1] on the device. Gradients are added to the weights.

        The loss is `scale` times this rank's sum; with 1 / tokens of the step, all ranks' losses
        add up to the mean.
        """
        self._reset(tokens, scale)
        kv_moved_before = self.stage.kv_moved_bytes
        note = self.stage.context.note
        try:
            for instruction in self.schedule.stages[self.stage.index]:
                for receive in self._needed[instruction]:
                    note(self._wait_notes[receive])
                    self._wait(receive)
                note(self._notes[instruction])
                start = time.perf_counter_ns()
                self._handlers[instruction.op](instruction)
                timed = TimedInstruction(instruction, start, time.perf_counter_ns())
                self.counters.timeline.append(timed)
            note(f"stage {self.stage.index}, at the schedule's end, waits for the other stages")
            self.transport.flush()
            self.stage.assert_empty()
            self.counters.kv_moved_bytes = self.stage.kv_moved_bytes - kv_moved_before
            if self._losses:
                self.counters.loss = float(torch.stack(self._losses).sum())
        finally:
            self._waits.clear()
            self._tensors.clear()
            self.stage.abort()
        return self.counters

    def _wait(self, receive: Instruction) -> None:
        """Once: all slices of a helper need the same weights, and gloo hangs in a second wait."""
        if receive in self._waits:
            self._waits.pop(receive)()

    def _peer(self, instruction: Instruction) -> int:
        return peer_of(self.schedule, instruction)

    def _part(self, instruction: Instruction) -> Part:
        return self.stage.part(instruction.part, instruction.subsequence)

    def _receive(self, instruction: Instruction) -> None:
        context = self.stage.context
        tokens = message_tokens(self.schedule, instruction) // self.stage.groups.shards.size
        shape = (tokens, self.stage.plan.model.hidden)
        buffer = torch.empty(shape, device=context.device, dtype=context.dtype)
        context.label("staging", buffer)
        self._waits[instruction] = self.transport.receive(buffer, self._peer(instruction)).wait
        self._tensors[instruction] = buffer

    def _join(self, instruction: Instruction, receive: Op) -> Tensor:
        """The input of a compute: pieces from other ranks and from this one."""
        pieces = [
            self._tensors.pop(instruction._replace(op=receive, other=side.other))
            for side in self._inputs[instruction]
        ]
        return pieces[0] if len(pieces) == 1 else torch.cat(pieces)

    def _split(self, instruction: Instruction, send: Op, output: Tensor) -> None:
        """The output of a compute, by reader. A piece must not keep the whole storage."""
        size = self.stage.groups.shards.size
        for side in self._outputs[instruction]:
            piece = output
            start, tokens = side.start // size, side.tokens // size
            if tokens < output.shape[0]:
                piece = output[start : start + tokens].clone()
            message = instruction._replace(op=send, other=side.other)
            if side.rank == self.stage.index:
                message = matching_receive(message)
            self._tensors[message] = piece

    def _forward(self, instruction: Instruction) -> None:
        sequence, index = instruction.sequence, instruction.subsequence
        part = self._part(instruction)
        span = part.spans[index]
        first, last = part.index == 0, part.index + 1 == self.schedule.layout.part_count
        x = self._tokens[sequence, span] if first else self._join(instruction, Op.RECV_F)
        targets = self._tokens[sequence, 1:][span] if last else None
        output = part.forward(sequence, index, x, targets, self._scale)
        self.stage.wait_for_offloads()
        if last:
            self._losses.append(output)
        else:
            self._split(instruction, Op.SEND_F, output)

    def _backward(self, instruction: Instruction) -> None:
        sequence, index = instruction.sequence, instruction.subsequence
        part = self._part(instruction)
        last = part.index + 1 == self.schedule.layout.part_count
        grad = None if last else self._join(instruction, Op.RECV_B)
        tokens = self._tokens[sequence, part.spans[index]] if part.index == 0 else None
        self.stage.wait_for_offloads()
        input_gradient = part.backward(sequence, index, grad, tokens)
        if input_gradient is not None:
            self._split(instruction, Op.SEND_B, input_gradient)

    def _clear_dkv(self, instruction: Instruction) -> None:
        self.stage.clear_gradients(instruction.part)

    def _send(self, instruction: Instruction) -> None:
        tensor = self._tensors.pop(instruction).contiguous()
        self.transport.send(tensor, self._peer(instruction))

    def _offload(self, instruction: Instruction) -> None:
        part = self._part(instruction)
        moved = part.offload(instruction.sequence, instruction.subsequence)
        self.counters.offloaded_bytes += moved

    def _reload(self, instruction: Instruction) -> None:
        part = self._part(instruction)
        self.stage.wait_for_offloads()
        moved = part.reload(instruction.sequence, instruction.subsequence)
        self.counters.fetched_bytes += moved

    def _msp_message(self, instruction: Instruction) -> None:
        """Weights of an MSP split to a helper, or their gradients to the owner."""
        part, peer = self._part(instruction), self._peer(instruction)
        assert isinstance(part, MspPart)
        with_prefix = instruction.other == 0
        match instruction.op:
            case Op.SEND_W:
                part.send_weights(peer, with_prefix=with_prefix)
            case Op.RECV_W:
                self._waits[instruction] = part.receive_weights(peer, with_prefix=with_prefix)
            case Op.SEND_DW:
                part.send_gradients(peer)
            case Op.RECV_DW:
                self._waits[instruction] = part.receive_gradients(peer)


def connections_of(schedule: Schedule) -> list[Connection]:
    """All (source, target, channel) that the schedule sends on, in one order for all ranks."""
    connections = {
        Connection(*pair, Channel.MSP_SLICES)
        for msp_split in schedule.layout.msp_splits
        for pair in permutations(msp_split.ranks, 2)
    }
    for stage, instructions in enumerate(schedule.stages):
        for instruction in instructions:
            if instruction.op in SENDS:
                weights = carries_msp_weights(instruction)
                channel = Channel.MSP_WEIGHTS if weights else Channel.PIPELINE
                connections.add(Connection(stage, peer_of(schedule, instruction), channel))
    return sorted(connections)


def build_engine(
    plan: Plan, weights: StageWeights, context: EngineContext, groups: RankGroups
) -> Engine:
    """The plan's schedule, checked, on a stage with these weights; all its ranks connected.

    Collective: all ranks call it at the same time. On CUDA every kernel has run once at the end.
    Raises torch's out-of-memory error where a GPU has no room for the plan.
    """
    schedule = build_schedule(plan)
    check_schedule(schedule)
    groups.connect(connections_of(schedule), context.device)
    on_cuda = context.device.type == "cuda"
    if on_cuda:
        check_room(plan.stages[groups.coordinate.stage].memory, context.device)
    stage = Stage(plan, weights, context, groups)
    if on_cuda:
        stage.warm_kernels()
    return Engine(schedule, stage)


def _note(instruction: Instruction) -> str:
    """A send may have to wait until its peer has received the sends before it."""
    return f"waits to send {instruction}" if instruction.op in SENDS else str(instruction)
