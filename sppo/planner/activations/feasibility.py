"""Whether a stage can fit at all, without looking for its best decisions: cheap tests. No torch."""

from __future__ import annotations

from sppo.config.errors import HOST_MEMORY, LayoutDoesNotFit
from sppo.memory_model.decisions import Decision
from sppo.planner.activations.policies import LEVELS, recompute_levels, uniform
from sppo.planner.activations.stage_problem import StageProblem


def require_host_room(problem: StageProblem) -> None:
    """Raise LayoutDoesNotFit if the host tier is too small under all decisions.

    Decisions that recompute attention are left out. After the last forward every saved
    byte is on the device or on the host. The leanest recomputation leaves the fewest saved bytes.
    """
    workload = problem.workload
    host, device = workload.host_memory_bytes, workload.device_memory_bytes
    if host is None or device is None:
        return
    levels = recompute_levels(problem)
    leanest = uniform(problem, levels[-1], 0.0)
    kept = problem.all_kept_bytes(leanest)
    if kept + problem.kv_host_bytes <= host:
        return
    states = [*(uniform(problem, decision, 0.0) for decision in levels[:-1]), leanest]
    rest = min(problem.base_at_turn_bytes(decisions) for decisions in states)
    rest += problem.untracked.charged
    excess = kept - max(0, device - rest) - (host - problem.kv_host_bytes)
    if excess > 0:
        raise LayoutDoesNotFit(excess, HOST_MEMORY)


def require_some_decisions(problem: StageProblem) -> None:
    """Raise LayoutDoesNotFit unless decisions fit in which all subsequences offload the same share.

    The ladders of `policies.choose` contain these decisions, so it then finds some that fit. It may
    also find some where this test raises: they need up to a 32nd less host memory.
    """
    shorts = []
    levels = recompute_levels(problem)
    for decision in (levels[-1], levels[1], levels[0]):  # that of the MLP needs no less
        try:
            return _require_share(problem, decision)
        except LayoutDoesNotFit as short:
            shorts.append(short)
    raise min(shorts, key=lambda short: short.bytes)


def _require_share(problem: StageProblem, decision: Decision) -> None:
    """Raise LayoutDoesNotFit unless the largest share for the host tier fits the device too."""
    everything = problem.memory(uniform(problem, decision, 1.0))
    host = problem.workload.host_memory_bytes
    if host is None or everything.host + everything.kv_host <= host:
        problem.require_fit(everything)
        return
    step = int(LEVELS * max(0, host - everything.kv_host) / everything.host)
    memory = problem.memory(uniform(problem, decision, step / LEVELS))
    while step > 0 and memory.host + memory.kv_host > host:  # shares are rounded up to tensors
        step -= 1
        memory = problem.memory(uniform(problem, decision, step / LEVELS))
    problem.require_fit(memory)
