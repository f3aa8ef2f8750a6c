from __future__ import annotations

from typing import Any

import pytest

from benchmarks.docs import peers
from benchmarks.docs.peers import PointSteps, _against_best
from benchmarks.paper.verdicts import PaperPoints, Verdict
from sppo.config.sizes import GIB


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


def verdict(rule_name: str, system: str, **changes: Any) -> Verdict:
    values: dict[str, Any] = {
        "model": "gpt-7b",
        "seq": "512K",
        "gpus": 32,
        "rule_name": rule_name,
        "system": system,
        "settings_text": "",
        "status": "ok",
        "reason": "",
        "paper_outcome": None,
        "agrees": None,
        "counted": True,
        "peak_device_bytes": 40 * GIB,
        "peak_host_bytes": 0,
        "at_peak_by_kind_bytes": {},
        "capacity_bytes": 76 * GIB,
        "limiting_role": None,
        "roles_emulated": 1,
        "roles": 1,
        "step_seconds": 50.0,
        "idle_share": 0.0,
    }
    return Verdict(**{**values, **changes})


def test_rows_as_the_paper_ran_them_stand_beside_sppo_s_step(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A row without idle time has one ratio; a row that is not there or has no step, a word."""
    rows = [
        verdict("SPPO", "sppo"),
        verdict("Megatron", "megatron", step_seconds=200.0, idle_share=0.5),
        verdict("DeepSpeed", "deepspeed", step_seconds=60.0),
        verdict("DeepSpeed, at its best", "deepspeed", step_seconds=49.0, at_best=True),
        verdict("SPPO", "sppo", seq="640K", step_seconds=80.0),
        verdict("Megatron", "megatron", seq="640K", status="oom", step_seconds=None),
        verdict("DeepSpeed", "deepspeed", seq="640K", status="unavailable", step_seconds=None),
        verdict("SPPO", "sppo", seq="1024K", step_seconds=90.0),
    ]
    emulated = PaperPoints(
        figure="10",
        hardware="a100-80g",
        sequences_per_step=1,
        rules={},
        step_tokens=1,
        verdicts=rows,
        longest=[],
        environment={},
    )
    monkeypatch.setattr(peers.published, "read", lambda figure, sequences: emulated)
    monkeypatch.setattr(peers, "read", lambda name: {})
    monkeypatch.setattr(peers, "origin", lambda document: "")
    head, _, *lines = peers.as_the_paper_ran_them().splitlines()
    assert [cell.strip() for cell in head.split("|")[4:-1]] == ["Megatron", "DeepSpeed"]
    assert [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines] == [
        ["gpt-7b, 512K, 32 GPUs", "40.00 GiB", "50.0 s", "4.00x, 2.00x without idle time", "1.20x"],
        ["gpt-7b, 640K, 32 GPUs", "40.00 GiB", "80.0 s", "oom", "cannot run"],
        ["gpt-7b, 1024K, 32 GPUs", "40.00 GiB", "90.0 s", "", ""],
    ]


def test_without_a_committed_emulation_the_command_is_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(peers.published, "read", lambda figure, sequences: None)
    with pytest.raises(ValueError, match="--figures 10 --sequences-per-step 1 --publish"):
        peers.as_the_paper_ran_them()
