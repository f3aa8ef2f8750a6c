"""Whether a stage can fit at all, without looking for its best decisions: cheap tests. No torch."""

from __future__ import annotations

from sppo.config.errors import Short
from sppo.memory_model.stage_memory import Decision, StageDecisions
from sppo.planner.activations.policies import LEVELS, recompute_fates, uniform
from sppo.planner.activations.stage_problem import StageProblem


def require_host_room(problem: StageProblem) -> None:
    """Raise Short if the host tier is too small whatever the decisions, short of attention again.

    After the last forward every kept byte lies on the device or on the host; the least of them is
    what the leanest recomputation leaves.
    """
    host, device = problem.host_limit_bytes, problem.device_limit_bytes
    if host is None or device is None:
        return
    states = [_sent(problem, decision, 0.0) for decision in recompute_fates(problem)]
    kept = sum(
        problem.kept_bytes(part, index, decision)
        for part, row in enumerate(states[-1])
        for index, decision in enumerate(row)
    )
    memory = problem.memory(states[-1])
    if kept + memory.kv_host <= host:
        return
    others = min(problem.base_at_turn_bytes(decisions) for decisions in states)
    others += problem.untracked.charged
    excess = kept - max(0, device - others) - (host - memory.kv_host)
    if excess > 0:
        raise Short(excess, "host memory")


def require_some_fates(problem: StageProblem) -> None:
    """Raise Short unless decisions fit in which all subsequences send the same share.

    What fits by this test fits by `policies.choose`, whose ladders contain these decisions; what
    fits there may need up to a 32nd less host memory.
    """
    require_host_room(problem)
    short: Short | None = None
    for decision in reversed(recompute_fates(problem)):
        try:
            _require_share(problem, decision)
        except Short as error:
            if short is None or error.bytes < short.bytes:
                short = error
        else:
            return
    assert short is not None
    raise short


def _require_share(problem: StageProblem, decision: Decision) -> None:
    """Raise Short unless the largest share that fits the host tier fits the device too."""
    everything = problem.memory(_sent(problem, decision, 1.0))
    host = problem.host_limit_bytes
    if host is None or everything.host + everything.kv_host <= host:
        problem.require_fit(everything)
        return
    step = int(LEVELS * max(0, host - everything.kv_host) / everything.host)
    memory = problem.memory(_sent(problem, decision, step / LEVELS))
    while step > 0 and memory.host + memory.kv_host > host:  # shares are rounded up to tensors
        step -= 1
        memory = problem.memory(_sent(problem, decision, step / LEVELS))
    problem.require_fit(memory)


def _sent(problem: StageProblem, decision: Decision, share: float) -> StageDecisions:
    return uniform(problem, decision, lambda part, index: share)
