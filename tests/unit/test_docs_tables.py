"""Generated tables of docs/ are what committed files, plans and simulations give today."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest

from benchmarks.docs import choices, comparison, pages, proofs, sweeps
from benchmarks.docs.__main__ import main
from benchmarks.job import Memory
from benchmarks.records import store
from benchmarks.reporting import tables
from benchmarks.rows import emulated_choices
from tests.unit.docs_text import CHECKOUT, generated_table
from tests.unit.records_factory import MIB, record, slower

PAGE = "# Title\n\n<!-- begin: name -->\n{}\n<!-- end -->\n\nMore.\n"


def test_every_table_of_the_pages_is_up_to_date(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """But one, which `test_simulated_ablation.py` checks beside its other simulations."""
    name = "sweeps-simulated-ablation"
    monkeypatch.setitem(pages.TABLES, name, partial(generated_table, "sweeps.md", name))
    code = main(["--check"])
    assert code == 0, capsys.readouterr().out + "run: python -m benchmarks.docs"


def test_every_table_has_a_place() -> None:
    placed = [
        name
        for path in (CHECKOUT / "README.md", *(CHECKOUT / "docs").glob("*.md"))
        for name in pages.names(path.read_text(encoding="utf-8"))
    ]
    assert sorted(placed) == sorted(pages.TABLES)


def test_a_table_is_replaced_and_nothing_else() -> None:
    after = pages.generated(PAGE.format("| old |"), {"name": lambda: "| new |"})
    assert after == PAGE.format("| new |")


def test_an_unknown_table_is_an_error_with_the_known_names() -> None:
    with pytest.raises(ValueError, match="no table is named 'name': take one of other"):
        pages.generated(PAGE.format(""), {"other": str})


@pytest.mark.parametrize("marker", ["<!-- begin: name -->", "<!-- end -->"])
def test_a_marker_without_its_pair_is_an_error(marker: str) -> None:
    with pytest.raises(ValueError, match="a marker has no pair"):
        pages.names(f"text\n\n{marker}\n")


def test_the_line_under_a_comparison_has_launches_and_the_peak() -> None:
    document = (
        "# run\n\n- measured on A, 2 cores, commit 1, today.\n- MFU: of 0.1 TFLOP/s per rank, x\n"
    )
    rows = [{"launches": "3"}, {"launches": "5"}]
    measured = "Measured on A, 2 cores, commit 1, today. Launches of a row: 3 to 5."
    peak = "MFU is relative to a peak of 0.1 TFLOP/s a rank."
    assert comparison._origin(document, rows) == f"{measured} {peak}"
    assert comparison._origin(document.partition("- MFU")[0], rows) == measured


PEERS = {
    "Megatron tuned": "megatron",
    "DeepSpeed Ulysses": "deepspeed",
    "PyTorch native": "native",
}


@pytest.mark.parametrize("peers", [2, 3])
def test_a_comparison_has_the_rows_of_its_run(
    peers: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = list(PEERS)[:peers]
    memory = [Memory(tracked_peak_bytes=3 * MIB, host_peak_bytes=0)]
    done = [slower(name, PEERS[name], 1.5, memory=memory) for name in names]
    done.append(record(memory=memory))
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "table.csv").write_text(tables.csv_text(done))
    (folder / "table.md").write_text(tables.markdown(done))
    monkeypatch.setattr(store, "published_directory", lambda: tmp_path)
    lines = comparison.comparison("run").splitlines()
    assert [line.split(" | ")[0].strip("| ") for line in lines[2:-2]] == [*names, "SPPO"]
    assert "Launches of a row: 1." in lines[-1]


@pytest.mark.parametrize(("native", "best"), [(None, "1.30x"), (0.9, "0.90x")])
def test_a_sweep_has_a_column_a_measured_system(native: float | None, best: str) -> None:
    steps = {"deepspeed": 1.5, "megatron": 1.3, "native": native, "sppo": 1.0}
    rows = [
        {"system": system, "step_seconds": {"median": ratio}, "sppo_speed_up": ratio}
        for system, ratio in steps.items()
        if ratio is not None
    ]
    document = {
        "values": [{"label": "none", "rows": rows}],
        "commit": "a" * 40,
        "machine": "M",
        "date": "today",
    }
    head, _, line, *_ = sweeps.sweep_table(document, "device memory").splitlines()
    assert ("PyTorch native, step s" in head) == (native is not None)
    assert line.startswith("| none | 1.500 | 1.300 |")
    assert line.endswith(f"| 1.000 | {best} |")


def choice_cells(workload: str) -> list[str]:
    """Of DeepSpeed, Megatron-Core and PyTorch native."""
    (line,) = (row for row in choices.emulated().splitlines() if row.startswith(f"| `{workload}`"))
    return line.strip("| ").split(" | ")[1:]


def test_a_peer_that_no_layout_allows_cannot_run_and_others_are_untuned(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Ulysses divides 32 heads by no 64 ranks; of PyTorch native the choice is taken away here."""
    committed = emulated_choices.choose
    assert choice_cells("gpt-7b-2m-64xa100")[0] == "cannot run"
    monkeypatch.setattr(
        emulated_choices,
        "choose",
        lambda system, workload: (
            committed(system, workload)
            if system == "megatron" or workload.sequence_tokens < 2**21
            else None
        ),
    )
    first, second, third = choice_cells("gpt-7b-2m-64xa100")
    assert (first, third) == ("cannot run", "untuned")
    assert second.startswith("TP16")


def test_the_line_under_the_proof_of_timing_names_the_row() -> None:
    line = proofs.noise().splitlines()[-1]
    assert "The row is Megatron in SPPO's layout. Its pooled ratio" in line


def test_check_names_an_old_page_and_writes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "page.md"
    page.write_text("<!-- begin: hardware-profiles -->\n| old |\n<!-- end -->\n")
    before = page.read_text()
    assert main(["--check", "--folder", str(tmp_path)]) == 1
    assert capsys.readouterr().out == "page.md: out of date\n"
    assert page.read_text() == before
    assert main(["--folder", str(tmp_path)]) == 0
    assert "| kind | measured |" in page.read_text()
    assert main(["--check", "--folder", str(tmp_path)]) == 0


def test_a_wrong_marker_is_told_with_its_page(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "page.md").write_text("<!-- begin: nothing -->\n<!-- end -->\n")
    assert main(["--check", "--folder", str(tmp_path)]) == 2
    assert capsys.readouterr().err.startswith("error: page.md: no table is named 'nothing'")
