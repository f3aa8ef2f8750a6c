"""The machine beside one launch: its own noise, foreign load and throttling, as far as readable."""

from __future__ import annotations

import math
from collections.abc import Sequence

import msgspec

SLOWED_CLOCKS = ("hw slowdown", "sw thermal", "hw thermal", "power brake")
"""Reasons of lowered GPU clocks that a healthy machine does not have. A power cap is usual."""

THROTTLED_SHARE = 0.05
"""The most of the measured steps in which a control group may have throttled the launch."""


class MachineState(msgspec.Struct, frozen=True, kw_only=True):
    """Readings beside a launch. None stands for what this machine does not report.

    wanted_cores: cores that the launch keeps busy, at most `cores`. kernel_*: median seconds of
    the fixed kernel on `wanted_cores` threads, before and after the launch. kernel_spread:
    interquartile range over median of its repetitions. window_seconds: the measured steps, or the
    whole launch where they are too short. CPU seconds, throttling: within the window, of the cores
    that this process may use; stolen ones went to other virtual machines. foreign_gpu_processes:
    the most processes beside the rank on a GPU of the launch.
    """

    cores: int
    wanted_cores: int
    kernel_before_seconds: float | None = None
    kernel_after_seconds: float | None = None
    kernel_spread: float | None = None
    window_seconds: float | None = None
    own_cpu_seconds: float | None = None
    foreign_cpu_seconds: float | None = None
    stolen_cpu_seconds: float | None = None
    throttled_seconds: float | None = None
    thermal_events: int | None = None
    gpu_clock_reasons: list[str] = []
    foreign_gpu_processes: int | None = None
    cpu_mhz: float | None = None

    @property
    def kernel_seconds(self) -> list[float]:
        """The readings of the kernel that there are."""
        readings = (self.kernel_before_seconds, self.kernel_after_seconds)
        return [seconds for seconds in readings if seconds is not None]

    @property
    def taken_share(self) -> float:
        """The share of its wanted cores that others took: 0 where idle cores are enough for them.

        Unknown load counts as none.
        """
        if not self.window_seconds:
            return 0.0
        others = (self.foreign_cpu_seconds or 0.0) + (self.stolen_cpu_seconds or 0.0)
        taken_cores = others / self.window_seconds - (self.cores - self.wanted_cores)
        return max(0.0, taken_cores / self.wanted_cores)

    @property
    def throttled_share(self) -> float:
        """The share of the window in which the control group had used up its CPU quota."""
        if not self.window_seconds or self.throttled_seconds is None:
            return 0.0
        return self.throttled_seconds / self.window_seconds

    @property
    def fault(self) -> str:
        """Why times of this machine do not count, whatever other launches read; "" if they do."""
        slowed = [reason for reason in self.gpu_clock_reasons if reason in SLOWED_CLOCKS]
        if slowed:
            return f"GPU clocks were lowered: {', '.join(slowed)}"
        if self.foreign_gpu_processes:
            return f"up to {self.foreign_gpu_processes} other process(es) on a GPU"
        if self.throttled_share > THROTTLED_SHARE:
            return f"no CPU quota for {self.throttled_share:.0%} of the timed steps"
        if self.thermal_events:
            return f"the processor was too hot {self.thermal_events} times"
        return ""


def fastest_kernel(states: Sequence[MachineState | None]) -> dict[int, float]:
    """The fastest reading of the kernel in a run, in seconds, by number of its threads.

    The reference may want other cores than the rows.
    """
    fastest: dict[int, float] = {}
    for state in states:
        if state is not None and state.kernel_seconds:
            threads = state.wanted_cores
            fastest[threads] = min(*state.kernel_seconds, fastest.get(threads, math.inf))
    return fastest
