"""Whole steps of the engine: offloaded and kept, at 128K beside the simulator, and two stages."""

from __future__ import annotations

import time
from typing import Any

import torch

from benchmarks.gpu.place import Place, Trained, train
from benchmarks.gpu.steps.checks import policies
from sppo.config.hardware import load_hardware
from sppo.cost_model.plan_costs import simulate_plan
from sppo.planner.options import SolverOptions
from sppo.schedule.instructions import parse_instruction

AGREEMENT = 2e-2
"""Relative: the flash backward of CUDA adds up in no fixed order, in bfloat16."""


def offload(place: Place) -> dict[str, Any]:
    """Everything offloaded against nothing: seconds, and the peak beside the plan's.

    Raises RuntimeError where the losses differ.
    """
    named = policies(place)
    done = {
        name: train(place, place.sizes.offload_tokens, named[name])
        for name in ("kept", "offloaded")
    }
    kept, offloaded = done["kept"], done["offloaded"]
    _check_equal(kept, offloaded)
    values: dict[str, Any] = {name: each.values for name, each in done.items()}
    return {
        "tokens": place.sizes.offload_tokens,
        **values,
        "time_ratio": offloaded.seconds[-1] / kept.seconds[-1],
    }


def _check_equal(left: Trained, right: Trained) -> None:
    for name in ("losses", "norms"):
        for one_value, other in zip(getattr(left, name), getattr(right, name), strict=True):
            if not abs(one_value - other) <= AGREEMENT * abs(one_value):
                raise RuntimeError(f"{name} differ: {one_value} and {other}")


def wide_slice(place: Place) -> dict[str, Any]:
    """A step of 7B-wide layers, timed by the device's own events, beside the simulator's times."""
    clock = EventClock(place)
    done = train(place, place.sizes.slice_tokens, SolverOptions(), notes=[clock.note])
    measured = clock.seconds_by_operation()
    simulation = simulate_plan(done.plan, load_hardware(place.profile))
    simulated: dict[str, float] = {}
    for event in simulation.events:
        name = event.instruction.op.value
        simulated[name] = simulated.get(name, 0.0) + (event.end - event.start) / 1e9
    return {
        "tokens": place.sizes.slice_tokens,
        **done.values,
        "measured_seconds_by_operation": measured,
        "simulated_seconds_by_operation": simulated,
        "simulated_step_seconds": simulation.makespan / 1e9,
        "timeline": clock.timeline(),
    }


class EventClock:
    """A time for every instruction, by events on the compute stream; on a CPU by the host's clock.

    An instruction lasts until the next one begins. A step begins with the first instruction after
    AdamW, so only the last step is kept.
    """

    def __init__(self, place: Place) -> None:
        self.place = place
        self.marks: list[tuple[str, Any]] = []

    def note(self, text: str) -> None:
        """The engine's callback before every instruction and wait."""
        if self.marks and self.marks[-1][0].endswith("AdamW"):
            self.marks.clear()
        self.marks.append((text, self._now()))

    def _now(self) -> Any:
        if not self.place.on_cuda:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def timeline(self) -> list[dict[str, Any]]:
        """Every mark of the last step: its text, start and length in seconds."""
        self.place.finish()
        if not self.marks:
            return []
        first = self.marks[0][1]
        starts = [self._seconds(first, mark) for _, mark in self.marks]
        return [
            {"name": text, "start_seconds": start, "seconds": end - start}
            for (text, _), start, end in zip(self.marks, starts, starts[1:], strict=False)
        ]

    def _seconds(self, first: Any, mark: Any) -> float:
        if self.place.on_cuda:
            return float(first.elapsed_time(mark)) / 1e3
        return float(mark - first)

    def seconds_by_operation(self) -> dict[str, float]:
        """Sums over the instructions of each kind: F, B, OFFLOAD and so on."""
        sums: dict[str, float] = {}
        for entry in self.timeline():
            try:
                operation = parse_instruction(entry["name"].rpartition(", ")[2]).op.value
            except ValueError:
                operation = "other"
            sums[operation] = sums.get(operation, 0.0) + entry["seconds"]
        return sums


def two_stages(place: Place) -> dict[str, Any]:
    """A pipeline of two stages, each a thread, against one stage: equal losses.

    Messages pass inside the device, in the order of its one compute stream.
    """
    options = SolverOptions(
        pipeline_parallel=2,
        sequence_parallel=1,
        subsequences=place.sizes.subsequences,
        virtual_stages=1,
        policy="full-offload",
        kv_offload=False,
        msp=False,
    )
    alone = train(place, place.sizes.stages_tokens, policies(place)["offloaded"])
    together = train(place, place.sizes.stages_tokens, options, ranks=2)
    _check_equal(alone, together)
    return {
        "tokens": place.sizes.stages_tokens,
        "one stage": alone.values,
        "two stages": together.values,
    }
