"""Searches over emulations: made-up memory first, then a real library."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import msgspec
import pytest

from baselines.megatron.settings import MegatronSettings
from baselines.protocol import Misfit
from baselines.registry import load
from benchmarks.cli import main
from benchmarks.emulation.emulator import Choose, Emulator
from benchmarks.emulation.result import Emulation, RoleReport, verdict
from benchmarks.emulation.search import STEP_TOKENS, Searcher, layouts, leanest, longest
from benchmarks.emulation.tables import answer
from benchmarks.workloads import of_flags
from sppo.config.workload import Workload
from tests.unit.made_up_ranks import STATE_BYTES, counts

WORKLOAD = of_flags(
    model="gpt-7b", seq="256K", gpus=8, hardware="a100-80g", device_memory="79.15GiB"
)


@dataclass(frozen=True, kw_only=True)
class MadeUp(Emulator):
    """Memory that grows with the length: bytes a token by tensor-parallel degree.

    From `breaks_at` tokens on nothing ends in time; lengths that `undivided` does not divide are
    misfits.
    """

    token_bytes: dict[int, int]
    breaks_at: int = 2**60
    undivided: int = 1
    asked: list[tuple[int, int]] = field(default_factory=list)

    def emulate(
        self,
        workload: Workload,
        system: str,
        settings: Any,
        choose: Choose | None = None,
        *,
        first: str | None = None,
    ) -> Emulation:
        degree, tokens = settings.tensor_parallel, workload.sequence_tokens
        if tokens % self.undivided:
            raise Misfit(f"{tokens} tokens by {self.undivided}")
        self.asked.append((degree, tokens))
        peak = STATE_BYTES + self.token_bytes[degree] * tokens
        report = msgspec.structs.replace(
            RoleReport(role="all", rank=0, ranks=8, status="ok", counts=counts(peak)),
            peak_device_bytes=peak,
        )
        if tokens >= self.breaks_at:
            report = RoleReport(role="all", rank=0, ranks=8, status="timeout", reason="too slow")
        return Emulation(
            workload=workload,
            system=system,
            settings=msgspec.to_builtins(settings),
            settings_text=f"TP{degree} {settings.recompute}",
            capacity_bytes=workload.device_memory_bytes,
            host_capacity_bytes=None,
            roles=[report],
            **verdict([report], workload),
        )


def made_up(**given: Any) -> MadeUp:
    return MadeUp(parent=Path("nowhere"), time_limit_seconds=1.0, **given)


def searcher(emulator: MadeUp) -> Searcher:
    return Searcher(workload=WORKLOAD, system="megatron", emulator=emulator)


def true_longest(token_bytes: int) -> int:
    room = (WORKLOAD.device_memory_bytes or 0) - STATE_BYTES
    return room // token_bytes // STEP_TOKENS * STEP_TOKENS


@pytest.mark.parametrize("token_bytes", [40_000, 90_000, 300_000, 1_000_000])
def test_the_longest_is_found_to_the_step(token_bytes: int) -> None:
    emulator = made_up(token_bytes={8: token_bytes})
    result = longest(searcher(emulator), [MegatronSettings(tensor_parallel=8)], 8 * 256 * 1024)
    assert result.longest_tokens == true_longest(token_bytes)
    assert result.found is not None
    assert result.found.workload.sequence_tokens == result.longest_tokens
    assert len(emulator.asked) == len(set(emulator.asked)) <= 10
    assert len(result.trials) == len(emulator.asked)


def test_the_best_of_several_settings_wins_and_the_others_are_asked_once() -> None:
    emulator = made_up(token_bytes={8: 90_000, 4: 200_000, 2: 60_000})
    settings = [MegatronSettings(tensor_parallel=degree) for degree in (8, 4, 2)]
    result = longest(searcher(emulator), settings, 8 * 256 * 1024)
    assert result.longest_tokens == true_longest(60_000)
    assert result.found is not None
    assert result.found.settings_text == "TP2 none"
    assert [asked for asked in emulator.asked if asked[0] == 4] == [
        (4, true_longest(90_000) + STEP_TOKENS)
    ]


def test_nothing_that_fits_is_zero() -> None:
    emulator = made_up(token_bytes={8: 10_000_000})
    result = longest(searcher(emulator), [MegatronSettings(tensor_parallel=8)], 2 * 256 * 1024)
    assert result.longest_tokens == 0
    assert result.found is None
    assert result.trials[-1].status == "oom"


@pytest.mark.parametrize("most", [512 * 1024, 128 * 1024, 1_000_000])
def test_no_more_is_asked_than_allowed(most: int) -> None:
    """Also where that is less than the workload's own length, or no multiple of the step."""
    emulator = made_up(token_bytes={8: 1})
    result = longest(searcher(emulator), [MegatronSettings(tensor_parallel=8)], most)
    assert result.longest_tokens == result.at_most_tokens == most // STEP_TOKENS * STEP_TOKENS
    assert max(tokens for _, tokens in emulator.asked) == result.longest_tokens
    assert "no more were asked for" in answer(result)


def test_what_breaks_is_no_answer() -> None:
    emulator = made_up(token_bytes={8: 90_000}, breaks_at=400 * 1024)
    result = longest(searcher(emulator), [MegatronSettings(tensor_parallel=8)], 8 * 256 * 1024)
    assert result.longest_tokens == 384 * 1024
    assert "TP8 none, 400K tokens: timeout: all, start: too slow" in result.unanswered


def test_settings_that_do_not_divide_the_first_length_are_wrong_input() -> None:
    emulator = made_up(token_bytes={8: 1, 4: 1}, undivided=3)
    with pytest.raises(Misfit):
        longest(searcher(emulator), [MegatronSettings(tensor_parallel=8)], 512 * 1024)


def test_a_length_that_does_not_divide_is_one_that_does_not_fit() -> None:
    emulator = made_up(token_bytes={8: 1}, undivided=128 * 1024)
    result = longest(searcher(emulator), [MegatronSettings(tensor_parallel=8)], 400 * 1024)
    assert result.longest_tokens == 384 * 1024
    assert {trial.status for trial in result.trials} == {"ok", "unavailable"}


def test_layouts_are_the_grid_by_degrees() -> None:
    adapter = load("megatron")
    grouped = layouts(adapter, WORKLOAD)
    assert sum(len(group) for group in grouped) == len(adapter.grid(WORKLOAD))
    assert len(leanest(adapter, WORKLOAD)) == len(grouped)
    assert all(settings.recompute == "full" for settings in leanest(adapter, WORKLOAD))
    assert all(group[0].recompute == "none" for group in grouped)


@pytest.mark.parametrize("room_gib", [20, 40])
def test_sppo_is_asked_where_its_plans_end(room_gib: int) -> None:
    """Nothing runs at lengths without a plan; the longest plan is emulated."""
    small = of_flags(
        model="gpt-7b",
        seq="64K",
        gpus=8,
        hardware="a100-80g",
        device_memory=f"{room_gib}GiB",
    )
    asked: list[int] = []

    class Planner(MadeUp):
        def emulate(self, workload: Workload, *given: Any, **named: Any) -> Emulation:
            asked.append(workload.sequence_tokens)
            return super().emulate(workload, "megatron", MegatronSettings(tensor_parallel=8), None)

    emulator = Planner(parent=Path("nowhere"), time_limit_seconds=1.0, token_bytes={8: 1})
    search = Searcher(workload=small, system="sppo", emulator=emulator)
    settings = load("sppo").settings_type(pipeline_parallel=1, sequence_parallel=8)
    tokens = search.longest(settings, 1024 * 1024)
    assert asked == [tokens]
    beyond = replace(small, sequence_tokens=tokens + STEP_TOKENS)
    assert emulator.refusal(beyond, "sppo", settings) is not None
    assert emulator.refusal(replace(small, sequence_tokens=tokens), "sppo", settings) is None


@pytest.mark.slow
@pytest.mark.soak
def test_the_longest_of_a_real_library(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    asked = ["--model", "gpt-tiny", "--seq", "16K", "--gpus", "2", "--hardware", "cpu-2core"]
    layout = ["--tp", "2", "--recompute", "full", "--device-memory", "512MiB"]
    arguments = ["emulate", "megatron", *asked, *layout, "--longest", "--json", "--no-wandb"]
    assert main([*arguments, "--output", str(tmp_path)]) == 0
    result = json.loads(capsys.readouterr().out)
    fits, beyond = result["longest_tokens"], result["longest_tokens"] + result["step_tokens"]
    by_tokens = {trial["tokens"]: trial for trial in result["trials"]}
    assert by_tokens[fits]["peak_device_bytes"] <= 512 * 2**20
    assert by_tokens[beyond]["status"] == "oom"
    assert by_tokens[beyond]["peak_device_bytes"] > 512 * 2**20
    assert result["found"]["fits"] is True


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["sppo", "--tuned"], "solver chooses"),
        (["megatron", "--tuned", "--tp", "8"], "--tensor-parallel"),
        (["megatron", "--at-most", "2M"], "--at-most"),
        (["megatron", "--longest", "--at-most", "much"], "much"),
        (["megatron", "--longest", "--budget", "60"], "--budget ends --tuned"),
        (["megatron", "--tuned", "--budget", "nan"], "positive number of seconds"),
        (["megatron", "--longest", "--ranks", "0"], "--ranks"),
        (["megatron", "--longest", "--at-most", "1K"], "at least that"),
        (["megatron", "--longest", "--tp", "3"], "does not divide 32 ranks"),
        (["deepspeed", "--tuned", "--zero", "0"], "--zero"),
        (["fpdt", "--tuned"], "unknown system"),
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
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
