"""The plan's card: what a stranger reads, and that it says what the plan says."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.cli import main
from benchmarks.workloads import find
from sppo.config.hardware import load_hardware
from sppo.config.sizes import MIB, format_bytes
from sppo.config.workload import Workload
from sppo.cost_model.flops import step_flops
from sppo.plan.plan import Plan
from sppo.planner.options import SolverOptions
from sppo.planner.report.card import BAR, DEVICE_KINDS, WIDTH, bar, plan_card
from sppo.planner.report.wording import ranges
from sppo.planner.solve import solve

TINY = find("tiny-cpu")
SEVEN_B = find("gpt-7b-4m-128xa100")
KINDS = "MKDASTCU"


def planned(workload: Workload, **options: object) -> tuple[Plan, str]:
    profile = load_hardware(workload.cluster.hardware)
    plan = solve(workload, profile, SolverOptions(**options))  # type: ignore[arg-type]
    return plan, plan_card(plan, profile, workload)


def test_like_stages_are_one_entry_of_a_large_plan() -> None:
    plan, text = planned(SEVEN_B, stage_sharding="tensor", sequence_parallel=8, msp=False)
    last = plan.pipeline_parallel - 1
    assert re.search(rf"\n  1 .. {last - 1}  +1 .. ", text)
    device = text[text.index("device, limit") : text.index("host, limit")]
    assert device.count("[") == 3
    assert max(len(line) for line in text.splitlines()) <= WIDTH
    assert text.isascii()


def test_bars_have_their_width_and_the_kinds_add_up() -> None:
    plan, text = planned(TINY)
    device = text[text.index("device, limit") : text.index("host, limit")]
    bars = re.findall(r"\[(.+)\]  (\S+ \S+) +(\S+ \S+)", device)
    assert len(bars) == len(plan.stages)
    for stage, (drawn, total, free) in zip(plan.stages, bars, strict=True):
        assert len(drawn) == BAR
        assert total == format_bytes(stage.memory.device_peak)
        assert TINY.device_memory_bytes is not None
        assert free == format_bytes(TINY.device_memory_bytes - stage.memory.device_peak)
        sizes = {kind[0]: size(stage.memory) for kind, size in DEVICE_KINDS.items()}
        assert set(drawn) - {"."} == {kind for kind, size in sizes.items() if size}
        assert sum(sizes.values()) == stage.memory.device_peak
        assert list(dict.fromkeys(drawn.rstrip("."))) == [kind for kind in KINDS if kind in drawn]
        assert re.search(" +".join(map(format_bytes, sizes.values())), text)


@pytest.mark.parametrize(
    ("sizes", "full", "expected"),
    [
        ({"M": 10, "K": 20}, 40, "M" * 10 + "K" * 20 + "." * 10),
        ({"M": 0, "K": 400}, 400, "K" * 40),
        ({"M": 1, "K": 399}, 400, "M" + "K" * 39),
        ({"M": 1}, 4000, "M" + "." * 39),
        ({}, 1, "." * 40),
    ],
)
def test_a_bar(sizes: dict[str, int], full: int, expected: str) -> None:
    assert bar(sizes, full) == expected


def test_times_are_labelled_and_follow_from_the_plan() -> None:
    plan, text = planned(SEVEN_B, stage_sharding="tensor", sequence_parallel=8, msp=False)
    profile = load_hardware("a100-80g")
    seconds = plan.makespan_seconds
    assert f"simulated  forward + backward {seconds:.3f} s" in text
    assert f"{SEVEN_B.sequence_tokens / seconds / 128:.1f} tokens per second per rank" in text
    share = step_flops(SEVEN_B).causal / (seconds * 128 * profile.peak_flops_per_second)
    assert f"MFU (causal) {share:.1%} of 312.0 TFLOP/s" in text
    assert "from the assumed profile a100-80g" in text
    assert "from the measured profile cpu-2core" in planned(TINY)[1]


def decision_rows(text: str) -> list[list[str]]:
    """Chunks, layers, subsequences, recomputed, offloaded, with wrapped cells joined."""
    header, *lines = text[text.index("  chunks") : text.index("\n\nWhy")].splitlines()
    titles = ("chunks", "layers", "subsequences", "recomputed", "offloaded")
    starts = [header.index(title) for title in titles]
    rows: list[list[str]] = []
    for line in lines:
        ends = [*starts[1:], None]
        cells = [line[start:end].strip() for start, end in zip(starts, ends, strict=True)]
        if cells[2]:
            rows.append(cells)
        else:
            rows[-1] = [
                f"{before} {more}".strip() for before, more in zip(rows[-1], cells, strict=True)
            ]
    return rows


def test_decisions_as_rows() -> None:
    plan, text = planned(
        TINY, policy="full-offload", subsequences=4, virtual_stages=1, pipeline_parallel=2
    )
    rows = decision_rows(text)
    offloaded = "mlp.activation, mlp.up, block.input, block.middle, norm1.output"
    assert rows[0][2:4] == ["0 .. 2", "-"]
    assert rows[0][4].startswith(offloaded)
    kept = [row for row in rows if row[3:] == ["-", "-"]]
    assert [row[2] for row in kept] == ["3"] * len(plan.stages)
    _, lean = planned(TINY, policy="lean", subsequences=8, virtual_stages=1, pipeline_parallel=2)
    recomputed = "norm1.output, attention.query, block.middle, norm2.output, mlp.up, mlp.activation"
    assert decision_rows(lean) == [["0, 1", "0 .. 3", "0 .. 7", recomputed, "-"]]


def test_a_share_of_the_layers_is_named() -> None:
    plan, text = planned(
        TINY.with_device_memory(150 * MIB),
        policy="auto",
        virtual_stages=1,
        pipeline_parallel=2,
        subsequences=8,
        kv_offload=False,
    )
    partly = any(
        0 < sum(name == unit for _, name in row) < len(part.layer_range)
        for part in plan.parts
        for row in part.offload_units
        for unit in {name for _, name in row}
    )
    offloaded = [row[4] for row in decision_rows(text)]
    assert partly == any(" of 2 layers" in cell for cell in offloaded)


def test_a_plan_over_its_limit_says_so() -> None:
    plan, text = planned(TINY.with_device_memory(136 * MIB), solver="paper")
    over = max(stage.memory.device_peak for stage in plan.stages) - 136 * MIB
    assert over > 0
    assert f"{format_bytes(over)} OVER THE LIMIT" in text


def test_without_limits_nothing_is_free() -> None:
    workload = replace(TINY, device_memory_bytes=None, host_memory_bytes=None)
    _, text = planned(workload)
    assert "device, no limit" in text
    assert "host, no limit" in text
    assert re.search(r"\.]  0.0 KiB +-\n", text)


@pytest.mark.parametrize(
    ("numbers", "text"),
    [
        ([3], "3"),
        ([0, 1], "0, 1"),
        ([0, 1, 2, 3], "0 .. 3"),
        ([0, 4, 8, 12], "0, 4, .., 12"),
        ([1, 2, 3, 17, 18, 19], "1 .. 3, 17 .. 19"),
        ([0, 2, 3, 4], "0, 2 .. 4"),
        ([], ""),
    ],
)
def test_ranges(numbers: list[int], text: str) -> None:
    assert ranges(numbers) == text


def test_the_verb_prints_the_card_and_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "tiny-cpu"]) == 0
    assert capsys.readouterr().out.strip() == planned(TINY)[1]
    assert main(["plan", "tiny-cpu", "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    plan = planned(TINY)[0]
    assert (data["label"], data["solver"], data["profile_kind"]) == (
        "simulated",
        "heuristic",
        "measured",
    )
    assert data["lengths_tokens"] == list(plan.lengths_tokens)
    assert data["reasons"] == list(plan.reasons)
    assert data["predicted_peak_bytes"] == [stage.memory.total for stage in plan.stages]
    untracked = [stage.memory.untracked.total for stage in plan.stages]
    assert data["predicted_untracked_bytes"] == untracked
    count = plan.subsequences
    assert len(data["offload_share"]) == len(data["recompute_units"]) == count
    for index in range(count):
        shares = [part.offload_share[index] for part in plan.parts]
        assert data["offload_share"][index] == pytest.approx(sum(shares) / len(shares))
        names = {name for part in plan.parts for name in part.recompute_units[index]}
        assert set(data["recompute_units"][index]) == names
    for stage in data["stages"]:
        memory = stage["memory"].items()
        uncounted = ("host", "kv_host", "kept_peak", "untracked")
        device = {key: size for key, size in memory if key not in uncounted}
        assert sum(device.values()) in data["predicted_peak_bytes"]


def test_every_key_of_the_json_is_documented(capsys: pytest.CaptureFixture[str]) -> None:
    text = (Path(__file__).parents[2] / "docs" / "plan.md").read_text()
    main(["plan", "tiny-cpu", "--json"])
    data = json.loads(capsys.readouterr().out)
    (stage, *_) = data["stages"]
    keys = [*data, *stage, *stage["memory"], *stage["memory"]["untracked"], *stage["parts"][0]]
    assert not [key for key in keys if f"`{key}`" not in text]
