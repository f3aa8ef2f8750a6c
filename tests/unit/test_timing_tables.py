"""No table, CSV, study, chart or page claims a ratio that its launches do not support."""

from __future__ import annotations

import csv
import io
from typing import Any

import msgspec
import pytest

from benchmarks.docs import comparison, sweeps
from benchmarks.job import Memory, Status
from benchmarks.launch.gate import exit_code
from benchmarks.records import store
from benchmarks.records.claim import to_repeat
from benchmarks.records.record import Record
from benchmarks.reporting import bar_chart, tables, text_table
from benchmarks.studies import ablation, ablation_report, sweep_report
from tests.unit.records_factory import MIB
from tests.unit.timing_cases import BUSY, LABELS, QUIET, run_of

APART = run_of({"megatron": (1.5, 1.5), "deepspeed": (2.5, 2.5), "sppo": (1.0, 1.5)})
STEADY = run_of(
    {"megatron": (1.5, 1.51, 1.5), "deepspeed": (2.5, 2.51, 2.5), "sppo": (1.0, 1.01, 1.0)}
)


def cells(done: list[Record], system: str) -> dict[str, str]:
    """The cells of a row of the table, by title."""
    titles, _, *rows = (
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in tables.grid(done).splitlines()
    )
    (row,) = (row for row in rows if row[0] == LABELS[system])
    return dict(zip(titles, row, strict=True))


def test_an_unsettled_row_keeps_its_status_and_times_and_has_no_ratio() -> None:
    row = cells(APART, "sppo")
    assert (row["status"], row["timing"], row["SPPO faster by [interval]"]) == (
        "ok",
        "unsettled",
        "-",
    )
    assert row["step s, median [quartiles]"].startswith("1.2")
    notes = "\n".join(tables.notes(APART))
    assert "SPPO: unsettled: 2 launches took 1.000 to 1.500 s a step" in notes
    assert "Megatron tuned: steady: no ratio is claimed: SPPO is unsettled" in notes


def test_a_claimed_ratio_shows_its_interval_everywhere() -> None:
    words = cells(STEADY, "megatron")["SPPO faster by [interval]"]
    ratio, ends = words.split("x ")
    low, high = (float(end) for end in ends.strip("[]").split(", "))
    assert low <= float(ratio) <= high
    (row, *_) = csv.DictReader(io.StringIO(tables.csv_text(STEADY)))
    assert row["timing"] == "steady"
    assert f"{float(row['sppo_speed_up_low']):.2f}" == f"{low:.2f}"
    assert float(row["between_launches"]) < 0.05
    assert words in tables.markdown(STEADY)
    assert words in comparison._compared({**row, "tracked_peak_bytes": "1", "host_peak_bytes": "0"})


def test_the_readings_of_the_machine_are_a_line_under_the_table() -> None:
    (line,) = (line for line in tables.notes(STEADY) if line.startswith("machine: "))
    assert "the kernel beside 9 launches took 3.00 ms at best" in line
    assert "others took up to 0.5% of the cores" in line
    unread = [msgspec.structs.replace(launch, machine_state=None) for launch in STEADY]
    assert not any(line.startswith("machine: ") for line in tables.notes(unread))


def test_the_chart_says_unsettled(monkeypatch: Any, tmp_path: Any) -> None:
    said: list[str] = []
    monkeypatch.setattr(
        bar_chart.style, "words", lambda axes, text, *rest, **style: said.append(text)
    )
    bar_chart.bar_chart(APART, tmp_path / "figure.png")
    assert sum("(unsettled: no ratio)" in text for text in said) == 1
    assert not any("as fast" in text for text in said)


def test_a_sweep_claims_no_best_peer_where_one_is_unsettled() -> None:
    """The ratio to the other peer would flatter SPPO."""
    noisy = run_of({"megatron": (1.1, 1.6), "deepspeed": (2.5, 2.5), "sppo": (1.0, 1.0)})
    assert sweep_report._speed_up(tables.summaries(noisy)) == "unsettled"
    assert sweep_report._speed_up(tables.summaries(APART)) == "unsettled"
    words = sweep_report._speed_up(tables.summaries(STEADY))
    assert words.startswith("1.50x [")


def test_a_page_claims_no_best_peer_where_one_is_unsettled() -> None:
    rows = [msgspec.to_builtins(tables.flat(row)) for row in tables.summaries(STEADY)]
    assert sweeps.speed_over_peers({"rows": rows}).startswith("1.50x [")
    rows[0] |= {"sppo_speed_up": None, "timing_reason": "far apart"}
    assert sweeps.speed_over_peers({"rows": rows}) == "unsettled"
    systems = {"deepspeed": 1.3, "megatron": 1.1, "sppo": 1.0}
    older = [{"system": name, "sppo_speed_up": ratio} for name, ratio in systems.items()]
    assert sweeps.speed_over_peers({"rows": older}) == "1.10x"


def test_a_page_shows_a_dash_for_no_ratio() -> None:
    assert text_table.interval(None, None, None) == "-"
    assert text_table.interval(1.2, None, None) == "1.20x"
    assert text_table.interval(1.2, 1.1, 1.3) == "1.20x [1.10, 1.30]"


def policy(name: str, medians: tuple[float, ...]) -> list[Record]:
    """Launches of a policy of SPPO."""
    label = ablation.label(name)
    return [msgspec.structs.replace(launch, row=label) for launch in run_of({"sppo": medians})]


def test_an_ablation_claims_no_ratio_to_an_unsettled_policy() -> None:
    settled = [*policy("auto", (1.0,) * 3), *policy("lean", (1.2,) * 3)]
    done = [*settled, *policy("paper", (1.0, 2.0))]
    plans: Any = dict.fromkeys(("auto", "lean", "paper"), (None, None))
    auto, lean, paper = ablation.results(done, plans)
    assert (auto.relative_time, lean.timing, paper.timing) == (1.0, "steady", "unsettled")
    assert lean.relative_time == 1.2
    assert lean.relative_time_low is not None
    assert paper.relative_time is None
    assert paper.relative_time_reason == "SPPO paper is unsettled"
    text = ablation_report.text(done, [auto, lean, paper], "auto")
    assert "paper: no ratio is claimed: SPPO paper is unsettled" in text
    assert "1.20 [" in text


def test_an_untuned_row_has_a_verdict_and_no_ratio() -> None:
    done = [msgspec.structs.replace(launch, tuned=False) for launch in STEADY]
    summary = tables.summaries(done)[0]
    assert (summary.timing, summary.sppo_speed_up, summary.timing_reason) == ("steady", None, "")


@pytest.mark.parametrize("status", ["failed", "timeout"])
def test_a_failed_further_launch_keeps_the_numbers_and_is_said(status: Status) -> None:
    done = run_of({"megatron": (1.5, 1.5, 1.5, 9.0), "sppo": (1.0, 1.0, 1.0)})
    done[-1] = msgspec.structs.replace(done[-1], status=status, reason="a lost peer", steps=[])
    row = cells(done, "megatron")
    assert (row["status"], row["timing"]) == ("ok (3 of 4 ok)", "noisy")
    assert row["SPPO faster by [interval]"].startswith("1.50x [")
    assert row["step s, median [quartiles]"].startswith("1.500")
    said = f"Megatron tuned: noisy: launch 4 ended as {status} (a lost peer) and is set aside"
    assert said in tables.notes(done)
    assert exit_code(done) == 1, "nothing is hidden"
    assert to_repeat(done) == []


def test_a_failed_further_launch_of_sppo_ends_the_pairs_of_all_rows() -> None:
    done = run_of({"megatron": (1.5,) * 3, "deepspeed": (2.0, 2.5, 2.0), "sppo": (1.0,) * 4})
    assert to_repeat(done) == [LABELS["deepspeed"], LABELS["sppo"]]
    done[-1] = msgspec.structs.replace(done[-1], status="failed", steps=[])
    assert tables.summaries(done)[-1].timing == "noisy"
    assert to_repeat(done) == [LABELS["deepspeed"]], "only to settle its own times"


@pytest.mark.parametrize(("number", "status"), [(2, "failed"), (3, "mismatch"), (3, "oom")])
def test_any_other_failure_is_that_of_the_row(number: int, status: Status) -> None:
    done = run_of({"sppo": (1.0, 1.0, 1.0)})
    done[number - 1] = msgspec.structs.replace(done[number - 1], status=status)
    (summary,) = tables.summaries(done)
    assert (summary.status, summary.timing, summary.step_seconds) == (status, None, None)


def test_memory_is_that_of_all_launches() -> None:
    done = run_of({"sppo": (1.0, 1.0, 3.0)}, [QUIET, QUIET, BUSY])
    largest = [Memory(tracked_peak_bytes=9 * MIB)]
    done[-1] = msgspec.structs.replace(done[-1], memory=largest)
    (summary,) = tables.summaries(done)
    assert summary.tracked_peak_bytes == 9 * MIB
    assert summary.step_seconds is not None
    assert summary.step_seconds.high < 1.1


def test_runs_without_readings_still_print() -> None:
    """Records of before the rule: no verdict, and a ratio with its interval."""
    from benchmarks.records import record as records

    read = records.read_all(store.published_directory() / "tiny-cpu-136MiB")
    done = [msgspec.structs.replace(record, machine_state=None) for record in read]
    rows = tables.summaries(done)
    assert all(row.sppo_speed_up is not None for row in rows)
    assert {row.timing for row in rows} == {None}
