"""Searches over emulations: made-up memory first, then a real library."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import pytest

from baselines.megatron import MegatronSettings
from baselines.registry import load
from benchmarks.cli import main
from benchmarks.emulation import Counts, Emulation, Operations, RoleReport, verdict
from benchmarks.emulation_search import STEP_TOKENS, Searcher, fastest, layouts, leanest, longest
from benchmarks.journal import Moment
from benchmarks.progress import Lines
from benchmarks.workloads import of_flags
from sppo.workload import Workload

WORKLOAD = of_flags(
    model="gpt-7b", seq="256K", gpus=8, hardware="a100-80g", device_memory="79.15GiB"
)
STATE_BYTES = 10 * 2**30


def counts(peak_bytes: int) -> Counts:
    return Counts(
        peak_device_bytes=peak_bytes,
        peak_host_bytes=0,
        before_step_bytes=STATE_BYTES,
        peak_by_kind_bytes={},
        at_peak_by_kind_bytes={},
        peak_at=Moment(phase="forward", backwards=0, all_backwards=1, operation="mm", share=0.5),
        flops=0,
        flops_by_operation=Operations(matmul=0, attention_causal=0, attention_full=0, recomputed=0),
        flops_by_operator={},
        communication_bytes=0,
        communication_by_link_bytes={},
        communication=[],
        copied_to_host_bytes=0,
        copied_from_host_bytes=0,
    )


@dataclass(kw_only=True)
class MadeUp:
    """Memory that grows with the length: bytes a token by tensor-parallel degree."""

    token_bytes: dict[int, int]
    asked: list[tuple[int, int]] = field(default_factory=list)
    told: Lines = field(default_factory=Lines)

    def emulate(
        self,
        workload: Workload,
        system: str,
        settings: Any,
        roles: None = None,
        *,
        first: str | None = None,
    ) -> Emulation:
        degree = settings.tensor_parallel
        self.asked.append((degree, workload.sequence_tokens))
        peak = STATE_BYTES + self.token_bytes[degree] * workload.sequence_tokens
        report = msgspec.structs.replace(
            RoleReport(role="all", rank=0, ranks=8, status="ok", counts=counts(peak)),
            peak_device_bytes=peak,
        )
        return Emulation(
            workload=workload,
            system=system,
            settings=msgspec.to_builtins(settings),
            settings_text=f"TP{degree}",
            capacity_bytes=workload.device_memory_bytes,
            host_capacity_bytes=None,
            roles=[report],
            **verdict([report], workload),
        )


def searcher(emulator: MadeUp) -> Searcher:
    return Searcher(workload=WORKLOAD, system="megatron", emulator=emulator)  # type: ignore[arg-type]


def true_longest(token_bytes: int) -> int:
    room = (WORKLOAD.device_memory_bytes or 0) - STATE_BYTES
    return room // token_bytes // STEP_TOKENS * STEP_TOKENS


@pytest.mark.parametrize("token_bytes", [40_000, 90_000, 300_000, 1_000_000])
def test_the_longest_is_found_to_the_step(token_bytes: int) -> None:
    emulator = MadeUp(token_bytes={8: token_bytes})
    found = longest(searcher(emulator), [MegatronSettings(tensor_parallel=8)], 8 * 256 * 1024)
    assert found.longest_tokens == true_longest(token_bytes)
    assert found.found is not None
    assert found.found.workload.sequence_tokens == found.longest_tokens
    assert len(emulator.asked) == len(set(emulator.asked)) <= 10
    assert len(found.trials) == len(emulator.asked)


def test_the_best_of_several_settings_wins_and_the_others_are_asked_once() -> None:
    emulator = MadeUp(token_bytes={8: 90_000, 4: 200_000, 2: 60_000})
    settings = [MegatronSettings(tensor_parallel=degree) for degree in (8, 4, 2)]
    found = longest(searcher(emulator), settings, 8 * 256 * 1024)
    assert found.longest_tokens == true_longest(60_000)
    assert found.found is not None
    assert found.found.settings_text == "TP2"
    assert [asked for asked in emulator.asked if asked[0] == 4] == [
        (4, true_longest(90_000) + STEP_TOKENS)
    ]


def test_nothing_that_fits_is_zero() -> None:
    emulator = MadeUp(token_bytes={8: 10_000_000})
    found = longest(searcher(emulator), [MegatronSettings(tensor_parallel=8)], 2 * 256 * 1024)
    assert found.longest_tokens == 0
    assert found.found is None
    assert found.trials[-1].status == "oom"


def test_no_more_is_asked_than_allowed() -> None:
    emulator = MadeUp(token_bytes={8: 1})
    found = longest(searcher(emulator), [MegatronSettings(tensor_parallel=8)], 512 * 1024)
    assert found.longest_tokens == 512 * 1024
    assert max(tokens for _, tokens in emulator.asked) == 512 * 1024


def test_layouts_are_the_grid_by_degrees() -> None:
    adapter = load("megatron")
    grouped = layouts(adapter, WORKLOAD)
    assert sum(len(group) for group in grouped) == len(adapter.grid(WORKLOAD))
    assert len(leanest(adapter, WORKLOAD)) == len(grouped)
    assert all(settings.recompute == "full" for settings in leanest(adapter, WORKLOAD))
    assert all(group[0].recompute == "none" for group in grouped)


def test_without_simulated_times_nothing_is_the_fastest() -> None:
    """Where the made-up emulator gives no time, no settings may win by chance."""
    token_bytes = dict.fromkeys((1, 2, 4, 8), 1)
    assert fastest(searcher(MadeUp(token_bytes=token_bytes))).found is None


@pytest.mark.slow
def test_the_longest_of_a_real_library(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    asked = ["--model", "gpt-tiny", "--seq", "16K", "--gpus", "2", "--hardware", "cpu-2core"]
    layout = ["--tp", "2", "--recompute", "full", "--device-memory", "512MiB"]
    arguments = ["emulate", "megatron", *asked, *layout, "--longest", "--json"]
    assert main([*arguments, "--output", str(tmp_path)]) == 0
    found = json.loads(capsys.readouterr().out)
    fits, beyond = found["longest_tokens"], found["longest_tokens"] + found["step_tokens"]
    by_tokens = {trial["tokens"]: trial for trial in found["trials"]}
    assert by_tokens[fits]["peak_device_bytes"] <= 512 * 2**20
    assert by_tokens[beyond]["status"] == "oom"
    assert by_tokens[beyond]["peak_device_bytes"] > 512 * 2**20
    assert found["found"]["fits"] is True


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["sppo", "--tuned"], "solver chooses"),
        (["megatron", "--tuned", "--tp", "8"], "--tensor-parallel"),
        (["megatron", "--at-most", "2M"], "--at-most"),
        (["megatron", "--longest", "--at-most", "much"], "much"),
        (["megatron", "--longest", "--ranks", "0"], "--ranks"),
    ],
)
def test_wrong_input_is_one_line(
    arguments: list[str], word: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    big = ["--model", "gpt-7b", "--seq", "1M", "--gpus", "32"]
    assert main(["emulate", *arguments, *big, "--output", str(tmp_path)]) == 2
    shown = capsys.readouterr().err
    assert word in shown
    assert shown.count("\n") == 1
