"""The search for the longest sequence with scripted launches."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest

from baselines.megatron.te_rules import WITHOUT_TE
from benchmarks import workloads
from benchmarks.job import Memory, Status
from benchmarks.launch import preparing, run
from benchmarks.launch.options import Options
from benchmarks.launch.progress import Lines
from benchmarks.launch.recording import Inputs
from benchmarks.longest_fit import guess_tokens
from benchmarks.records import store
from benchmarks.records.record import Record, Text
from benchmarks.rows.row import ROWS, Configuration, Row
from benchmarks.studies import longest, longest_result
from benchmarks.studies.longest import Prober, SearchedSetting, search_row
from sppo.config.sizes import MIB
from sppo.config.workload import Workload
from tests.unit.records_factory import record

WORKLOAD = replace(workloads.find("mini-cpu"), sequence_tokens=1024, device_memory_bytes=100 * MIB)
STEP = 256
ROW = {row.slug: row for row in ROWS}
TUNED = ROW["megatron-tuned"]


class Script:
    """Launches that end by a rule: the longest that fits, by the name of the setting."""

    def __init__(self, longest_tokens: dict[str, int], status: Status = "oom") -> None:
        self.longest_tokens = longest_tokens
        self.status: Status = status
        self.asked: list[tuple[str, int]] = []

    def __call__(
        self, inputs: Inputs, assignment: Configuration, number: int, options: Options, _: object
    ) -> Record:
        name, tokens = assignment.settings["name"], inputs.workload.sequence_tokens
        self.asked.append((name, tokens))
        fits = tokens <= self.longest_tokens[name]
        return record(
            workload=inputs.workload,
            row=assignment.row.label,
            system=assignment.row.system,
            status="ok" if fits else self.status,
            reason="" if fits else "no memory",
            memory=[Memory(tracked_peak_bytes=tokens)] if fits else [],
        )


@pytest.fixture
def prober(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Prober:
    monkeypatch.setattr(
        preparing, "with_workload", lambda inputs, workload, _: replace(inputs, workload=workload)
    )
    inputs = Inputs(
        workload=WORKLOAD,
        directory=tmp_path,
        text=Text(description="", sha256=""),
        cpu_peak=None,
        environment={},
    )
    options = Options(launches=1, warmup_steps=0, measured_steps=0)
    return Prober(inputs=inputs, options=options, display=Lines(), at_most_tokens=1024**2)


def setting(
    name: str, row: Row = TUNED, peak: int | None = None, plans: int = 2**20
) -> SearchedSetting:
    def at(workload: Workload) -> Configuration:
        configuration = Configuration(row=row, settings={"name": name}, settings_text=name)
        if workload.sequence_tokens > plans:
            return replace(configuration, status="infeasible", reason="1 MiB short")
        return configuration

    return SearchedSetting(row=row, label=name, at=at, known_peak_bytes=peak)


Use = Callable[[Script], Script]


@pytest.fixture
def use(monkeypatch: pytest.MonkeyPatch) -> Use:
    def script(scripted: Script) -> Script:
        monkeypatch.setattr(run, "launch_row", scripted)
        return scripted

    return script


def test_a_tuned_row_is_the_best_of_its_settings_and_the_worse_are_asked_once(
    prober: Prober, use: Use
) -> None:
    script = use(Script({"lean": 2048, "worse": 1500, "better": 3000}))
    result = search_row([setting("lean"), setting("worse"), setting("better")], prober, STEP)
    assert (result.settings, result.longest_tokens) == ({"name": "better"}, 2816)
    assert result.peak_device_bytes == 2816
    assert result.fails_with == "oom: no memory"
    assert (result.points, result.launches) == (3, len(script.asked))
    assert [tokens for name, tokens in script.asked if name == "worse"] == [2304]


def test_a_setting_whose_known_peak_is_too_much_is_not_launched(prober: Prober, use: Use) -> None:
    script = use(Script({"lean": 1024, "large": 9999}))
    result = search_row([setting("lean"), setting("large", peak=101 * MIB)], prober, STEP)
    assert result.longest_tokens == 1024
    assert {name for name, _ in script.asked} == {"lean"}
    refused = [trial for trial in prober.trials if not trial.launched]
    assert "not launched: its known peak at 1,024 tokens is 101.0 MiB" in refused[0].reason


def test_nothing_fits(prober: Prober, use: Use) -> None:
    use(Script({"a": 0, "b": 0}))
    result = search_row([setting("a"), setting("b")], prober, STEP)
    assert (result.longest_tokens, result.peak_device_bytes) == (0, None)
    assert result.fails_with == "oom: no memory"


def test_sppo_starts_where_its_planner_ends(prober: Prober, use: Use) -> None:
    script = use(Script({"plan": 9999}))
    result = search_row([setting("plan", ROW["sppo"], plans=4000)], prober, STEP)
    assert result.longest_tokens == 3840
    assert script.asked == [("plan", 3840)]
    assert result.fails_with == "infeasible: 1 MiB short"


def test_sppo_whose_plan_does_not_hold_comes_down(prober: Prober, use: Use) -> None:
    use(Script({"plan": 3000}))
    result = search_row([setting("plan", ROW["sppo"], plans=4000)], prober, STEP)
    assert result.longest_tokens == 2816
    assert result.fails_with == "oom: no memory"


def test_another_status_than_oom_is_reported(prober: Prober, use: Use) -> None:
    use(Script({"a": 2048}, status="timeout"))
    assert search_row([setting("a")], prober, STEP).fails_with == "timeout: no memory"


def test_the_guess_is_of_the_rank_that_is_full_first() -> None:
    assert guess_tokens([(60, 20), (70, 30)], 1000, 110) == 2000
    assert guess_tokens([(30, 30)], 1000, 110) is None


def test_a_step_divides_for_every_system() -> None:
    assert longest.step_tokens(WORKLOAD) == 256
    assert longest.step_tokens(workloads.find("gpt-7b-4m-128xa100")) == 256


def rows() -> list[longest_result.LongestRow]:
    values: dict[str, Any] = {"settings": {}, "points": 1, "launches": 3, "peak_device_bytes": MIB}
    return [
        longest_result.LongestRow(
            system="megatron",
            row="Megatron tuned",
            settings_text="TP2",
            longest_tokens=4096,
            fails_with="oom: no memory",
            **values,
        ),
        longest_result.LongestRow(
            system="sppo",
            row="SPPO",
            settings_text="PP2",
            longest_tokens=8192,
            fails_with="infeasible: 1 MiB short",
            **values,
        ),
    ]


def test_the_table_compares_with_sppo() -> None:
    lines = longest_result.table(rows()).splitlines()
    assert "4,096" in lines[2]
    assert "2.00x" in lines[2]
    assert "1.00x" in lines[3]
    assert "infeasible: 1 MiB short" in lines[3]


def test_saved_with_its_origin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "published_directory", lambda: tmp_path)
    result = longest_result.LongestSequences(
        workload="mini-cpu",
        device_memory_bytes=16 * MIB,
        step_tokens=256,
        machine="a processor",
        versions={"torch": "2"},
        commit="a" * 40,
        dirty=True,
        date="2026-11-24",
        rows=rows(),
        trials=[],
    )
    path = store.save(longest_result.path_of("mini-cpu", 16 * MIB), result)
    assert path == tmp_path / "longest" / "mini-cpu-16MiB.json"
    assert msgspec.json.decode(path.read_bytes(), type=longest_result.LongestSequences) == result
    assert "commit aaaaaaaaa with changes" in longest_result.text(result)
    assert f"\nMegatron tuned: {WITHOUT_TE}; " in longest_result.text(result)
    fewer = msgspec.structs.replace(result, rows=rows()[1:])
    assert longest_result.lost_rows(fewer, path) == ["Megatron tuned"]
    assert longest_result.lost_rows(result, path) == []
    assert longest_result.lost_rows(fewer, tmp_path / "absent.json") == []
