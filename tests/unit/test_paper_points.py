"""The paper's points: what it says of each system, and the count of what agrees."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import paper_figure, paper_readings, paper_report, reported
from benchmarks.cli import main
from benchmarks.job import Status
from benchmarks.paper_points import Longest, PaperPoints, Verdict, workload_of
from benchmarks.paper_readings import READINGS, Word
from benchmarks.reported import ReportedPoint
from sppo.workload import GIB


def point(model: str, seq: str) -> ReportedPoint:
    return next(one for one in reported.points() if (one.model, one.seq) == (model, seq))


@pytest.mark.parametrize(
    ("model", "seq", "words"),
    [
        ("gpt-7b", "896K", ("fits", "fits", "fits", "fits")),
        ("gpt-7b", "1024K", ("oom", "fits", "fits", "fits")),
        ("gpt-13b", "768K", ("fits", "fits", "cannot run", "fits")),
        ("gpt-13b", "1280K", ("oom", "oom", "cannot run", "fits")),
        ("gpt-65b", "512K", ("fits", None, "fits", "fits")),
        ("gpt-65b", "600K", ("fits", None, "oom", "fits")),
        ("gpt-65b", "1024K", ("oom", None, "oom", "fits")),
    ],
)
def test_what_the_paper_says(model: str, seq: str, words: tuple[Word | None, ...]) -> None:
    assert tuple(reading.says(point(model, seq)) for reading in READINGS) == words


def test_there_are_fifteen_points_and_one_rule_a_row() -> None:
    assert len(reported.points()) == 15
    assert len({reading.rule for reading in READINGS}) == len(READINGS) == 4


def test_the_rules_give_the_paper_s_degrees() -> None:
    same, tuned, deepspeed, _ = READINGS
    large = point("gpt-65b", "512K")
    assert (same.settings(large).tensor_parallel, same.settings(large).pipeline_parallel) == (16, 8)
    assert (tuned.settings(large).tensor_parallel, tuned.settings(large).pipeline_parallel) == (
        64,
        2,
    )
    assert deepspeed.settings(large).sequence_parallel == 64, "as many as heads"
    assert deepspeed.settings(point("gpt-7b", "512K")).sequence_parallel == 32
    assert deepspeed.settings(point("gpt-13b", "512K")).sequence_parallel == 40, "no divisor of 64"
    assert paper_readings.find("megatron") == [same, tuned]


def test_a_point_is_the_paper_s_cluster() -> None:
    workload = workload_of(point("gpt-13b", "1280K"), 4)
    assert workload.sequence_tokens == 1280 * 1024
    assert (workload.cluster.ranks, workload.cluster.nodes) == (64, 8)
    assert workload.sequences_per_step == 4
    assert workload.device_memory_bytes == round(79.15 * GIB) - round(2.5 * GIB)


def verdict(seq: str, reading: str, status: Status, says: Word | None, peak_gib: int) -> Verdict:
    fits = {"ok": "fits", "oom": "oom"}.get(status)
    return Verdict(
        model="gpt-7b",
        seq=seq,
        gpus=32,
        reading=reading,
        system="megatron",
        settings_text="TP8 PP4",
        status=status,
        reason="",
        says=says,
        agrees=None if says is None else says == fits,
        counted=reading != "beside",
        peak_device_bytes=peak_gib * GIB,
        peak_host_bytes=0,
        at_peak_by_kind_bytes={"activations": peak_gib * GIB},
        capacity_bytes=76 * GIB,
        limiting_role="stage 0",
        roles_emulated=4,
        step_seconds=None,
    )


@pytest.fixture
def found() -> PaperPoints:
    return PaperPoints(
        hardware="a100-80g",
        sequences_per_step=4,
        rules={"one": "its rule"},
        step_tokens=16 * 1024,
        verdicts=[
            verdict("512K", "one", "ok", "fits", 40),
            verdict("512K", "two", "ok", "oom", 50),
            verdict("640K", "one", "oom", "oom", 90),
            verdict("640K", "two", "oom", None, 91),
            verdict("640K", "beside", "oom", "fits", 92),
        ],
        longest=[
            Longest(
                gpus=32,
                reading="one",
                system="sppo",
                settings_text="SP 8 x PP 4",
                sequences_per_step=4,
                longest_tokens=2 * 1024**2,
                says_tokens=1024**2,
                peak_device_bytes={"stage 0": 70 * GIB, "stage 1": 60 * GIB},
                peak_host_bytes={"stage 0": 200 * GIB, "stage 1": 200 * GIB},
                beyond="host memory; and more",
            )
        ],
        environment={"commit": "abcdef0123", "dirty": False, "versions": {"torch": "2"}},
    )


def test_agreement_counts_what_the_paper_says_of_rows_that_count(found: PaperPoints) -> None:
    assert paper_report.agreement(found) == (
        "agree with the paper: 2 of 3 verdicts (one 2 of 2, two 0 of 1); all systems at 1 of 2 "
        "points"
    )


def test_disagreements_are_explained_from_the_counts(found: PaperPoints) -> None:
    text = paper_report.text(found)
    assert "two: the paper says oom; 26.00 GiB to spare in stage 0: activations 50.00 GiB" in text
    assert "beside: the paper says fits; 16.00 GiB too much" in text
    assert "its rule" in text
    assert "commit abcdef012" in text


def test_the_longest_stands_beside_the_paper_s(found: PaperPoints) -> None:
    line = next(row for row in paper_report.text(found).splitlines() if "SP 8 x PP 4" in row)
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    assert cells[3:] == [
        "2M",
        "1M",
        "2.00x",
        "60.00 GiB to 70.00 GiB",
        "200.00 GiB",
        "host memory",
    ]


def test_the_figure_is_drawn(found: PaperPoints, tmp_path: Path) -> None:
    paper_figure.draw(found, tmp_path / "paper.png")
    assert (tmp_path / "paper.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["--figures", "11"], "--figures 11: known are 10, 12"),
        (["--models", "gpt-5b"], "known are gpt-7b"),
        (["--systems", "fpdt"], "known are deepspeed"),
        (["--sequences-per-step", "0"], "must be positive"),
    ],
)
def test_wrong_input_is_one_line(
    arguments: list[str], word: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["paper", *arguments]) == 2
    shown = capsys.readouterr().err
    assert word in shown
    assert shown.count("\n") == 1
