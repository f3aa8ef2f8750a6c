from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import msgspec
import pytest

from benchmarks.records.record import Record
from benchmarks.reporting import bar_chart, tables
from tests.unit.records_factory import MIB, record, slower


@pytest.fixture
def run() -> list[Record]:
    reference = record(system="reference", row="Reference", ranks=1, steps=record().steps[:4])
    oom = slower("DeepSpeed Ulysses", "deepspeed", 1.0, status="oom", reason="rank 0: no memory")
    return [
        reference,
        msgspec.structs.replace(oom, settings_text="ZeRO-1", grid=""),
        slower("Megatron same layout", "megatron", 2.3),
        record(),
        slower("Megatron same layout", "megatron", 2.3, launch=2),
        record(launch=2),
    ]


def test_rows_in_order_of_launching_without_the_reference(run: list[Record]) -> None:
    rows = tables.summaries(run)
    assert [row.row for row in rows] == ["DeepSpeed Ulysses", "Megatron same layout", "SPPO"]
    assert [row.launches for row in rows] == [1, 2, 2]


def test_of_an_untuned_row_the_point_that_it_ended_with() -> None:
    tries = {"tuned": False, "status": "oom"}
    done = [
        slower("Native", "native", 1.5, **tries),
        slower("Native, point 2", "native", 1.5, **tries),
        slower("Native, point 3", "native", 1.5, tuned=False),
        slower("Megatron", "megatron", 2.0, status="oom"),
        slower("Megatron, point 2", "megatron", 2.0),
    ]
    rows = [(row.row, row.status) for row in tables.summaries(done)]
    assert rows == [
        ("Native, point 3", "ok"),
        ("Megatron", "oom"),
        ("Megatron, point 2", "ok"),
    ]


def test_numbers_of_an_ok_row(run: list[Record]) -> None:
    _, megatron, sppo = tables.summaries(run)
    assert megatron.sppo_speed_up == pytest.approx(2.3)
    assert sppo.sppo_speed_up == 1.0
    assert sppo.step_seconds is not None
    assert sppo.step_seconds.median == 0.5
    assert sppo.tracked_peak_bytes == 4 * MIB
    assert sppo.mfu_causal is not None
    flops = run[-1].flops
    expected = (flops.dense + flops.attention_causal) / (0.5 * 2 * 1e11)
    assert sppo.mfu_causal == pytest.approx(expected)


def test_a_row_that_did_not_end_well_has_its_word_and_reason_and_no_number(
    run: list[Record],
) -> None:
    line = next(line for line in tables.grid(run).splitlines() if "DeepSpeed" in line)
    values = [cell.strip() for cell in line.strip("|").split("|")]
    assert values[1:3] == ["ZeRO-1", "oom"]
    assert set(values[3:-1]) == {"-"}
    assert "DeepSpeed Ulysses: oom: rank 0: no memory" in tables.notes(run)


def test_one_bad_launch_takes_the_numbers_away(run: list[Record]) -> None:
    run[-1] = msgspec.structs.replace(run[-1], status="timeout", reason="no end")
    sppo = tables.summaries(run)[-1]
    assert (sppo.status, sppo.launches_ok, sppo.step_seconds) == ("timeout", 1, None)
    assert "timeout (1 of 2 ok)" in tables.grid(run)


def test_the_header_says_what_where_and_under_which_limit(run: list[Record]) -> None:
    text = "\n".join(tables.header(run))
    for words in (
        "mini-cpu: gpt-mini, one sequence of 512 tokens per step, 2 ranks",
        "a processor, 2 cores, commit aaaaaaaaa, 2026-11-24",
        "152.0 MiB per rank (rlimit)",
        "agrees with the plain torch reference over 4 optimizer steps",
    ):
        assert words in text


def test_a_mismatch_is_named_in_the_header(run: list[Record]) -> None:
    run[3] = msgspec.structs.replace(run[3], status="mismatch", reason="step 1")
    assert "NOT by SPPO" in "\n".join(tables.header(run))


def test_csv_and_json_keep_full_numbers_and_units_in_names(run: list[Record]) -> None:
    rows = list(csv.DictReader(io.StringIO(tables.csv_text(run))))
    assert rows[0]["step_seconds_median"] == ""
    assert float(rows[2]["step_seconds_median"]) == 0.5
    assert int(rows[2]["tracked_peak_bytes"]) == 4 * MIB
    json.dumps([tables.flat(summary) for summary in tables.summaries(run)], allow_nan=False)


def test_markdown_is_one_document(run: list[Record]) -> None:
    text = tables.markdown(run)
    assert text.startswith("# mini-cpu")
    assert "\n| row " in text


def test_only_a_failed_reference_still_makes_a_table_and_a_figure(tmp_path: Path) -> None:
    alone = [record(system="reference", row="Reference", status="failed", reason="broken")]
    assert "row" in tables.text(alone)
    assert tables.markdown(alone).startswith("# mini-cpu")
    bar_chart.bar_chart(alone, tmp_path / "figure.png")
    assert (tmp_path / "figure.png").stat().st_size > 0


def test_the_figure_is_a_png(run: list[Record], tmp_path: Path) -> None:
    path = tmp_path / "figure.png"
    bar_chart.bar_chart(run, path)
    assert path.read_bytes().startswith(b"\x89PNG")
