"""Runs a schedule, instruction by instruction. There is no policy in here."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from sppo.comm.messages import ReceiveWork, Transport
from sppo.engine.stage import Stage
from sppo.schedule.dependencies import (
    Schedule,
    inputs_of,
    matching_receive,
    message_tokens,
    needed_receives,
    outputs_of,
    peer_of,
)
from sppo.schedule.instructions import SENDS, Instruction, Op


@dataclass(frozen=True, kw_only=True)
class Timed:
    """One instruction as it happened; `start_ns` is after any wait for a message."""

    instruction: Instruction
    start_ns: int
    end_ns: int


@dataclass(kw_only=True)
class StepCounters:
    """What one rank did in one step."""

    loss: float = 0.0
    offloaded_bytes: int = 0
    fetched_bytes: int = 0
    kv_moved_bytes: int = 0
    timeline: list[Timed] = field(default_factory=list)


@dataclass(kw_only=True)
class _Posted:
    """A receive on its way; a lending has no buffer of the engine's."""

    work: ReceiveWork
    buffer: Tensor | None = None


class Engine:
    """One rank's part of a schedule."""

    def __init__(self, schedule: Schedule, stage: Stage, transport: Transport) -> None:
        self.schedule = schedule
        self.stage = stage
        self.transport = transport
        self._handlers: dict[Op, Callable[[Instruction], None]] = {
            Op.RECV_F: self._post,
            Op.RECV_B: self._post,
            Op.FORWARD: self._forward,
            Op.BACKWARD: self._backward,
            Op.SEND_F: self._send,
            Op.SEND_B: self._send,
            Op.OFFLOAD: self._offload,
            Op.RELOAD: self._fetch,
            Op.ZERO_DKV: self._clear,
            Op.SEND_W: self._lend,
            Op.RECV_W: self._borrow,
            Op.SEND_DW: self._give_back,
            Op.RECV_DW: self._collect,
            Op.ADD_DW: self._add,
        }
        mine = schedule.stages[stage.index]
        computes = [one for one in mine if one.op in (Op.FORWARD, Op.BACKWARD)]
        self._needed = {one: needed_receives(schedule, one) for one in mine}
        self._inputs = {one: inputs_of(schedule, one) for one in computes}
        self._outputs = {one: outputs_of(schedule, one) for one in computes}
        self._doing = {one: f"stage {stage.index}, {_words(one)}" for one in mine}
        needed = {receive for receives in self._needed.values() for receive in receives}
        self._waiting = {one: f"stage {stage.index}, waits for {one}" for one in needed}
        self._reset(torch.empty(0), 1.0)

    def _reset(self, tokens: Tensor, scale: float) -> None:
        self._tokens = tokens
        self._scale = scale
        self._posted: dict[Instruction, _Posted] = {}
        self._outgoing: dict[Instruction, Tensor] = {}
        self._losses: list[Tensor] = []
        self.counters = StepCounters()

    def run(self, tokens: Tensor, scale: float) -> StepCounters:
        """tokens: int64 [sequences, S + 1] on the device. Gradients are added to the weights.

        The loss is `scale` times the sum of this rank's; 1 / tokens of the step makes it a mean.
        """
        self._reset(tokens, scale)
        kv_moved_before = self.stage.kv_moved_bytes
        note = self.stage.context.note
        try:
            for instruction in self.schedule.stages[self.stage.index]:
                for receive in self._needed[instruction]:
                    note(self._waiting[receive])
                    self._posted[receive].work.wait()
                note(self._doing[instruction])
                start = time.perf_counter_ns()
                self._handlers[instruction.op](instruction)
                self.counters.timeline.append(
                    Timed(instruction=instruction, start_ns=start, end_ns=time.perf_counter_ns())
                )
            note(f"stage {self.stage.index}, at the schedule's end, waits for the other stages")
            self.transport.flush()
            self.stage.assert_empty()
            self.counters.kv_moved_bytes = self.stage.kv_moved_bytes - kv_moved_before
            if self._losses:
                self.counters.loss = float(torch.stack(self._losses).sum())
        finally:
            self._posted.clear()
            self._outgoing.clear()
            self.stage.abandon()
        return self.counters

    def _peer(self, instruction: Instruction) -> int:
        return peer_of(self.schedule, instruction)

    def _post(self, instruction: Instruction) -> None:
        context = self.stage.context
        tokens = message_tokens(self.schedule, instruction) // context.team.size
        shape = (tokens, self.stage.plan.model.hidden)
        buffer = torch.empty(shape, device=context.device, dtype=context.dtype)
        context.label("staging", buffer)
        work = self.transport.receive(buffer, self._peer(instruction))
        self._posted[instruction] = _Posted(buffer=buffer, work=work)

    def _join(self, instruction: Instruction, receive: Op) -> Tensor:
        """What a compute reads: the pieces that came from other ranks and from this one."""
        pieces = []
        for side in self._inputs[instruction]:
            received = instruction._replace(op=receive, other=side.other)
            if received in self._posted:
                piece = self._posted.pop(received).buffer
            else:
                piece = self._outgoing.pop(received)
            assert piece is not None
            pieces.append(piece)
        return pieces[0] if len(pieces) == 1 else torch.cat(pieces)

    def _hand_on(self, instruction: Instruction, send: Op, output: Tensor) -> None:
        """What a compute made, by who reads it. A part of it must not keep all of it."""
        size = self.stage.context.team.size
        for side in self._outputs[instruction]:
            piece = output
            start, tokens = side.start // size, side.tokens // size
            if tokens < output.shape[0]:
                piece = output[start : start + tokens].clone()
            sent = instruction._replace(op=send, other=side.other)
            if side.rank == self.stage.index:
                sent = matching_receive(sent)
            self._outgoing[sent] = piece

    def _forward(self, instruction: Instruction) -> None:
        _, sequence, index, number, _, _ = instruction
        part = self.stage.part(number, index)
        span = part.span(index)
        x = self._tokens[sequence, span] if number == 0 else self._join(instruction, Op.RECV_F)
        last = number + 1 == self.schedule.parts
        targets = self._tokens[sequence, 1:][span] if last else None
        output = part.forward(sequence, index, x, targets, self._scale)
        self.stage.let_go()
        if last:
            self._losses.append(output)
        else:
            self._hand_on(instruction, Op.SEND_F, output)

    def _backward(self, instruction: Instruction) -> None:
        _, sequence, index, number, _, _ = instruction
        part = self.stage.part(number, index)
        grad = None
        if number + 1 < self.schedule.parts:
            grad = self._join(instruction, Op.RECV_B)
        tokens = self._tokens[sequence, part.span(index)] if number == 0 else None
        self.stage.let_go()
        input_gradient = part.backward(sequence, index, grad, tokens)
        if input_gradient is not None:
            self._hand_on(instruction, Op.SEND_B, input_gradient)

    def _clear(self, instruction: Instruction) -> None:
        self.stage.clear_gradients(instruction.part)

    def _send(self, instruction: Instruction) -> None:
        tensor = self._outgoing.pop(instruction).contiguous()
        self.transport.send(tensor, self._peer(instruction))

    def _offload(self, instruction: Instruction) -> None:
        part = self.stage.part(instruction.part, instruction.subsequence)
        moved = part.offload(instruction.sequence, instruction.subsequence)
        self.counters.offloaded_bytes += moved

    def _fetch(self, instruction: Instruction) -> None:
        part = self.stage.part(instruction.part, instruction.subsequence)
        self.stage.let_go()
        moved = part.fetch(instruction.sequence, instruction.subsequence)
        self.counters.fetched_bytes += moved

    def _lend(self, instruction: Instruction) -> None:
        msp_part = self.stage.msp_part(instruction.part, instruction.subsequence)
        msp_part.lend(self._peer(instruction), with_prefix=instruction.other == 0)

    def _borrow(self, instruction: Instruction) -> None:
        msp_part = self.stage.msp_part(instruction.part, instruction.subsequence)
        work = msp_part.borrow(self._peer(instruction), with_prefix=instruction.other == 0)
        self._posted[instruction] = _Posted(work=work)

    def _give_back(self, instruction: Instruction) -> None:
        msp_part = self.stage.msp_part(instruction.part, instruction.subsequence)
        msp_part.give_back(self._peer(instruction))

    def _collect(self, instruction: Instruction) -> None:
        msp_part = self.stage.msp_part(instruction.part, instruction.subsequence)
        work = msp_part.collect(self._peer(instruction))
        self._posted[instruction] = _Posted(work=work)

    def _add(self, instruction: Instruction) -> None:
        """The receipt adds what has come when it is waited for."""
        del self._posted[instruction._replace(op=Op.RECV_DW)]


def _words(instruction: Instruction) -> str:
    """A send may have to wait until its peer takes what was sent before."""
    return f"waits to send {instruction}" if instruction.op in SENDS else str(instruction)
