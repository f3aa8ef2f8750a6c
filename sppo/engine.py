"""Runs a schedule, instruction by instruction. There is no policy in here."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from sppo.comm import Receipt, Transport
from sppo.schedule import Instruction, Op, Schedule, needed_receive, peer_part
from sppo.stage import Stage


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
    buffer: Tensor
    receipt: Receipt


class Engine:
    """One rank's part of a schedule. `run` is a generator: it yields while a message is missing.

    Over a process group a wait blocks, so the generator ends at its first step; in one process all
    ranks' generators are stepped in turn.
    """

    def __init__(self, schedule: Schedule, stage: Stage, transport: Transport) -> None:
        self.schedule = schedule
        self.stage = stage
        self.transport = transport
        self._handlers: dict[Op, Callable[[Instruction], None]] = {
            Op.RECEIVE_ACTIVATION: self._post,
            Op.RECEIVE_GRADIENT: self._post,
            Op.FORWARD: self._forward,
            Op.BACKWARD: self._backward,
            Op.SEND_ACTIVATION: self._send,
            Op.SEND_GRADIENT: self._send,
            Op.OFFLOAD: self._offload,
            Op.FETCH: self._fetch,
            Op.CLEAR: self._clear,
        }
        self._reset(torch.empty(0))

    def _reset(self, tokens: Tensor) -> None:
        self._tokens = tokens
        self._scale = 1.0 / max(1, tokens.shape[0] * (tokens.shape[-1] - 1))
        self._posted: dict[Instruction, _Posted] = {}
        self._outgoing: dict[Instruction, Tensor] = {}
        self._losses: list[Tensor] = []
        self.counters = StepCounters()

    def run(self, tokens: Tensor) -> Iterator[None]:
        """tokens: int64 [sequences, S + 1] on the device. Gradients are added to the weights."""
        self._reset(tokens)
        kv_moved_before = self.stage.kv_moved_bytes
        try:
            for instruction in self.schedule.stages[self.stage.index]:
                receive = needed_receive(self.schedule, instruction)
                while receive is not None and not self._posted[receive].receipt.ready():
                    yield
                start = time.perf_counter_ns()
                self._handlers[instruction.op](instruction)
                self.counters.timeline.append(
                    Timed(instruction=instruction, start_ns=start, end_ns=time.perf_counter_ns())
                )
            self.transport.flush()
            self.stage.assert_empty()
            self.counters.kv_moved_bytes = self.stage.kv_moved_bytes - kv_moved_before
            if self._losses:
                self.counters.loss = float(torch.stack(self._losses).sum())
        finally:
            self._posted.clear()
            self._outgoing.clear()
            self.stage.abandon()

    def _peer(self, instruction: Instruction) -> int:
        return self.schedule.stage_of(peer_part(instruction))

    def _post(self, instruction: Instruction) -> None:
        plan, runtime = self.stage.plan, self.stage.runtime
        shape = (plan.lengths_tokens[instruction.subsequence], plan.model.hidden)
        buffer = torch.empty(shape, device=runtime.device, dtype=runtime.dtype)
        runtime.label("staging", buffer)
        receipt = self.transport.receive(buffer, self._peer(instruction))
        self._posted[instruction] = _Posted(buffer=buffer, receipt=receipt)

    def _forward(self, instruction: Instruction) -> None:
        _, sequence, index, number = instruction
        part = self.stage.parts[number]
        span = part.span(index)
        if number == 0:
            x = self._tokens[sequence, span]
        else:
            x = self._posted.pop(instruction._replace(op=Op.RECEIVE_ACTIVATION)).buffer
        last = number + 1 == self.schedule.parts
        targets = self._tokens[sequence, 1:][span] if last else None
        output = part.forward(sequence, index, x, targets, self._scale)
        if last:
            self._losses.append(output)
        else:
            self._outgoing[instruction._replace(op=Op.SEND_ACTIVATION)] = output

    def _backward(self, instruction: Instruction) -> None:
        _, sequence, index, number = instruction
        part = self.stage.parts[number]
        grad = None
        if number + 1 < self.schedule.parts:
            grad = self._posted.pop(instruction._replace(op=Op.RECEIVE_GRADIENT)).buffer
        tokens = self._tokens[sequence, part.span(index)] if number == 0 else None
        input_gradient = part.backward(sequence, index, grad, tokens)
        if input_gradient is not None:
            self._outgoing[instruction._replace(op=Op.SEND_GRADIENT)] = input_gradient

    def _clear(self, instruction: Instruction) -> None:
        self.stage.parts[instruction.part].clear_gradients()

    def _send(self, instruction: Instruction) -> None:
        tensor = self._outgoing.pop(instruction).contiguous()
        self.transport.send(tensor, self._peer(instruction))

    def _offload(self, instruction: Instruction) -> None:
        part = self.stage.parts[instruction.part]
        moved = part.offload(instruction.sequence, instruction.subsequence)
        self.counters.offloaded_bytes += moved

    def _fetch(self, instruction: Instruction) -> None:
        part = self.stage.parts[instruction.part]
        moved = part.fetch(instruction.sequence, instruction.subsequence)
        self.counters.fetched_bytes += moved


def run_blocking(engine: Engine, tokens: Tensor) -> StepCounters:
    """Run one rank over a process group to the end."""
    for _ in engine.run(tokens):
        raise AssertionError("a process-group transport never asks to be stepped again")
    return engine.counters


def run_together(engines: list[Engine], tokens: Tensor) -> list[StepCounters]:
    """Step all ranks of one process in turn until all are done."""
    running = [engine.run(tokens) for engine in engines]
    alive = set(range(len(running)))
    while alive:
        for rank in sorted(alive):
            if next(running[rank], alive) is alive:
                alive.discard(rank)
    return [engine.counters for engine in engines]
