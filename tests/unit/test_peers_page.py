from __future__ import annotations

from benchmarks.docs.peers import PointSteps, _against_best


def steps(**peers: float | None) -> PointSteps:
    return PointSteps(
        name="a point", plan="a plan", seconds=2.0, peers=peers, refused=frozenset(("deepspeed",))
    )


def test_the_ratio_is_to_the_fastest_peer() -> None:
    row = steps(deepspeed=None, megatron=3.0, native=2.5)
    assert row.best == ("native", 2.5)
    assert _against_best(row) == "1.250x"


def test_the_ratio_is_a_bound_while_a_peer_is_not_searched() -> None:
    assert _against_best(steps(deepspeed=None, megatron=None, native=2.5)) == "at most 1.250x"
    assert steps(deepspeed=None, megatron=None, native=None).best is None
