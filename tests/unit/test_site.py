"""The site of the published results: its links, its size, its numbers, its folder."""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from benchmarks.cli import main
from benchmarks.records import record as records
from benchmarks.records import timeline
from benchmarks.records.record import Record
from benchmarks.reporting import tables
from benchmarks.site import folder
from benchmarks.site.build import build
from benchmarks.site.document import MOST_BYTES, unique_names
from benchmarks.site.page import Cell, Table, number_in
from benchmarks.site.sources.history import history_document
from benchmarks.site.sources.markdown import to_html
from benchmarks.site.sources.runs import fastest_peer, result_words
from benchmarks.site.sources.traces import PERFETTO
from tests.unit import history_cases, site_pages
from tests.unit.records_factory import record, slower

CHECKOUT = Path(__file__).parents[2]
RUN = "tiny-cpu-136MiB"
MIB = 1024**2


@pytest.fixture(scope="module")
def files() -> dict[str, bytes]:
    site = build(CHECKOUT / "results", "a test")
    assert site.skipped == []
    return site.files


def test_every_link_leads_to_a_page_and_a_place_on_the_page(files: dict[str, bytes]) -> None:
    assert site_pages.dead_links(files) == []


def test_a_planted_dead_link_is_found(files: dict[str, bytes]) -> None:
    planted = files | {"index.html": b'<a href="runs/none.html">x</a><a href="#none">y</a>'}
    assert len(site_pages.dead_links(planted)) == 2


def test_a_page_loads_nothing_of_another_host(files: dict[str, bytes]) -> None:
    for name, page in site_pages.pages(files).items():
        assert [href for href in page.loaded if "//" in href] == [], name
        outside = {href for href in page.links if "://" in href}
        assert outside <= {PERFETTO}, name
        policies = [each["content"] for tag, each in page.tags if "http-equiv" in each]
        assert policies[0].startswith("default-src 'none'"), name
    style = files["assets/site.css"].decode()
    assert "url(" not in style
    assert "@import" not in style


def test_the_site_is_small_and_charts_load_after_the_page(files: dict[str, bytes]) -> None:
    assert sum(map(len, files.values())) < 15 * MIB
    assert len(files["index.html"]) + len(files["assets/site.css"]) < MIB
    scripts = [each for tag, each in site_pages.parse(files["index.html"]).tags if tag == "script"]
    loaded = [each for each in scripts if "src" in each]
    assert "assets/plotly.min.js" in [each["src"] for each in loaded]
    assert all("defer" in each for each in loaded)
    assert {each.get("type") for each in scripts if "src" not in each} == {"application/json"}


def test_licences_of_scripts_lie_beside_them(files: dict[str, bytes]) -> None:
    for name in ("plotly", "datatables"):
        assert f"assets/{name}.min.js" in files
        assert b"MIT" in files[f"assets/{name}.LICENSE.txt"]


def test_the_first_page_answers_three_questions(files: dict[str, bytes]) -> None:
    page = site_pages.parse(files["index.html"])
    assert {"faster", "longer", "slower"} <= page.ids
    charts = [values for _, values in page.tags if values.get("class") == "chart"]
    assert len(charts) >= 4
    assert "There is no history yet" in page.text
    done = records.read_all(CHECKOUT / "results" / "published" / RUN)
    assert result_words(tables.summaries(done)) in page.text


def test_a_row_of_a_run_is_that_of_its_table_and_leads_to_its_records(
    files: dict[str, bytes],
) -> None:
    done = records.read_all(CHECKOUT / "results" / "published" / RUN)
    page = f"runs/{RUN}/index.html"
    links = [site_pages.target(page, href)[0] for href in site_pages.parse(files[page]).links]
    for summary in tables.summaries(done):
        for _, write in tables.COLUMNS:
            assert write(summary) in site_pages.parse(files[page]).text
    own = f"runs/{RUN}/sppo.html"
    numbers = [write(tables.summaries(done)[-1]) for _, write in tables.COLUMNS]
    assert links.count(own) >= len([cell for cell in numbers if number_in(cell) is not None])
    text = site_pages.parse(files[own]).text
    for launch in (each for each in done if each.row == "SPPO"):
        for step in launch.steps:
            assert f"{step.seconds:.4f}" in text
        assert launch.environment["commit"] in text
        assert "settings" in text.lower()


def test_a_copied_record_is_the_record(files: dict[str, bytes]) -> None:
    path = CHECKOUT / "results" / "published" / RUN / "sppo-1" / "record.json"
    assert files[f"runs/{RUN}/sppo-1.record.json"] == path.read_bytes()


def test_traces_have_the_events_of_both_steps(files: dict[str, bytes]) -> None:
    measured = timeline.find_measured(CHECKOUT / "results" / "published" / RUN)
    trace = json.loads(files[f"timelines/{RUN}/measured.json"])
    events = [event for event in trace["traceEvents"] if event["ph"] == "X"]
    assert len(events) == sum(map(len, measured.timelines))
    assert {event["pid"] for event in events} == {0, 1}
    simulated = json.loads(files[f"timelines/{RUN}/simulated.json"])
    assert simulated["label"] == "simulated"
    names = {event["name"] for event in simulated["traceEvents"] if event["ph"] == "X"}
    assert {"F0.0@0", "B0.0@0"} <= names


def test_every_page_of_the_paper_has_its_points_and_files(files: dict[str, bytes]) -> None:
    name = "paper/published-emulation/fig10-4-sequences"
    page = site_pages.parse(files[f"{name}.html"])
    verdicts = json.loads(files[f"{name}.json"])["verdicts"]
    assert {f"point-{place}" for place in range(1, len(verdicts) + 1)} <= page.ids
    assert f"{name}.png" in [site_pages.target(f"{name}.html", each)[0] for each in page.images]


def test_a_long_csv_is_a_chart_of_its_columns(files: dict[str, bytes]) -> None:
    data = files["paper/published-emulation/gpt-7b-4m-128xa100-sppo.html"]
    page = site_pages.parse(data)
    assert [values for _, values in page.tags if values.get("class") == "chart"]
    assert not [tag for tag, _ in page.tags if tag == "table"]
    assert b"activations, GiB" in data


def test_points_of_an_item_are_charts_by_quantity_and_lead_to_their_neighbours(
    tmp_path: Path,
) -> None:
    folder = tmp_path / "paper" / "pages"
    folder.mkdir(parents=True)
    (folder / "index.md").write_text("# Figures\n\n[two](fig2.md) [ten](fig10.md) [big](big.md)\n")
    head = "item,series,place,quantity,unit,value,outcome,label,source"
    points = ["SPPO,1M,hours,h,52.2,,simulated", "Megatron,1M,hours,h,,oom,emulated"]
    points += ["SPPO,1M,MFU,%,41.5,,simulated"]
    lines = [head, *(f"fig2,{point},a plan" for point in points)]
    (folder / "fig2.csv").write_text("\n".join(lines))
    (folder / "fig2.md").write_text("# Fig. 2\n\n![drawn](fig2.svg)\n\nAll: [index](index.md).\n")
    (folder / "fig10.md").write_text("# Fig. 10\n")
    (folder / "big.md").write_text("# Too big to copy\n")
    (folder / "big.png").write_bytes(bytes(MOST_BYTES + 1))
    site = build(tmp_path, "a test")
    (line,) = site.skipped
    assert "big.png: more than " in line
    assert site_pages.dead_links(site.files) == []
    index = site_pages.parse(site.files["paper/paper-pages/index.html"])
    assert [href for href in index.links if "/" not in href] == ["fig2.html", "fig10.html"]
    page = site_pages.parse(site.files["paper/paper-pages/fig2.html"])
    labels = [values["aria-label"] for _, values in page.tags if values.get("class") == "chart"]
    assert labels == ["hours", "MFU"]
    assert "oom" in page.text
    listed = site_pages.parse(site.files["paper/index.html"])
    assert [href.rpartition("/")[2] for href in listed.links if "paper-pages" in href] == [
        "index.html",
        "fig2.html",
        "fig10.html",
    ]


def test_a_table_of_markdown_sorts_by_value() -> None:
    text = "# Title\n\n| row | peak |\n|---|---|\n| a | 9 MiB |\n| b | 1 GiB |\n| c | oom |\n"
    html = to_html(text, {})
    orders = [repr(9.0 * MIB), repr(1024.0**3), ""]
    assert [f'<td data-order="{order}">' in html for order in orders] == [True] * 3
    assert html.count("data-order") == 3


def test_a_history_shows_its_regression_its_void_points_and_its_runs() -> None:
    entries = [
        *history_cases.steps([1.0, 1.01, 1.0, 1.0, 1.3]),
        history_cases.entry(5, history_cases.metric(1.31)),
        history_cases.entry(6, history_cases.metric(1.3), void="too hot"),
    ]
    document = history_document(entries[:6])
    assert document.summary.startswith("The newest commit, ")
    later = history_document(entries).summary
    assert "confirms no new regression; 1 metrics were judged. Known: tiny-cpu" in later
    assert "confirms a regression: tiny-cpu-136MiB/sppo/step_seconds" in document.summary
    (chart,) = history_document(entries).charts
    symbols = chart.figure["data"][0]["marker"]["symbol"]
    assert symbols == ["circle"] * 6 + ["circle-open"]
    assert len(history_document(entries).pages) == 1 + len(entries)


@pytest.mark.parametrize(
    ("words", "number"),
    [
        ("1.840 [1.755, 1.864]", 1.84),
        ("122.1 MiB", 122.1 * MIB),
        ("76.41 GiB to 76.54 GiB", 76.41 * 1024**3),
        ("32,768", 32768),
        ("1.21x [1.15, 1.28]", 1.21),
        ("50.7 %", 50.7),
        ("4M", 4 * MIB),
        ("2 of 3", 2),
        ("0", 0),
        ("-0.38 %", -0.38),
        ("12.5 ms", 0.0125),
    ],
)
def test_the_number_that_words_begin_with(words: str, number: float) -> None:
    assert number_in(words) == pytest.approx(number)


@pytest.mark.parametrize(
    "words", ["", "-", "oom", "PP2, N 4", "2026-11-28", "3d9cbb6f8", "1e999", "nan", "inf", "12abc"]
)
def test_words_without_a_number(words: str) -> None:
    assert number_in(words) is None


def test_a_column_of_numbers_sorts_by_value_and_one_of_words_by_its_letters() -> None:
    rows = (("b", "9 MiB"), ("a", "1 GiB"), ("c", "oom"))
    table = Table(
        titles=("row", "peak"), rows=tuple(tuple(Cell(text=text) for text in row) for row in rows)
    )
    assert table.numeric == [False, True]
    assert [order for _, order in table.orders] == [repr(9.0 * MIB), repr(1024.0**3), ""]


def test_two_names_never_share_a_file() -> None:
    names = ["a b", "a-b", "A-B", "../x", "x", "", "..", "a/../../b", "ü", "<b>"]
    safe = unique_names(names)
    assert len({name.lower() for name in safe.values()}) == len(names)
    for name in safe.values():
        assert "/" not in name
        assert name.strip(".")
        assert name.isascii()


def test_the_fastest_peer_is_that_of_the_least_ratio_and_none_beside_unsettled_times() -> None:
    done = [record(launch=launch) for launch in (1, 2, 3)]
    for row, factor in (("DeepSpeed", 2.0), ("Megatron", 1.5)):
        done += [slower(row, row.lower(), factor, launch=launch) for launch in (1, 2, 3)]
    rows = tables.summaries(done)
    peer = fastest_peer(rows)
    assert peer is not None
    assert peer.row == "Megatron"
    unsettled = [replace(row, sppo_speed_up=None, timing_reason="noise") for row in rows[1:2]]
    assert fastest_peer([*rows[:1], *unsettled, *rows[2:]]) is None
    assert result_words(unsettled) == "No ratio is claimed."


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """A folder like `results/` with one published run of two rows."""
    run = tmp_path / "results" / "published" / "a-run"
    for number, each in enumerate((record(), slower("DeepSpeed", "deepspeed", 2.0)), start=1):
        records.write(each, run / f"row-{number}" / "record.json")
    return tmp_path / "results"


def test_the_command_writes_a_site_and_writes_it_anew(
    results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "site"
    command = ["site", "--results", str(results), "--output", str(output)]
    assert main(command) == 0
    assert capsys.readouterr().out.endswith(f"open {output / 'index.html'}\n")
    (output / "CNAME").write_text("ours")
    shutil.rmtree(results / "published" / "a-run" / "row-2")
    assert main([*command, "--json"]) == 0
    values = json.loads(capsys.readouterr().out)
    written = {str(path.relative_to(output)) for path in output.rglob("*") if path.is_file()}
    assert written == {*values["files"], folder.MARKER, "CNAME"}
    assert not list(output.rglob("deepspeed*"))


def test_a_folder_of_somebody_else_is_refused(
    results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("years of work")
    command = ["site", "--results", str(results), "--output", str(tmp_path / "mine")]
    assert main(command) == 2
    assert "holds files of somebody else: name an empty folder" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["thesis.tex"]


def test_a_missing_folder_of_results_is_wrong_input(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["site", "--results", str(tmp_path / "none"), "--output", str(tmp_path / "site")]
    assert main(command) == 2
    assert "name one with published/ in it" in capsys.readouterr().err
    assert not (tmp_path / "site").exists()


def test_missing_libraries_are_named_with_the_cure(
    results: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setitem(sys.modules, "benchmarks.site.build", None)
    command = ["site", "--results", str(results), "--output", str(tmp_path / "site")]
    assert main(command) == 2
    assert "pip install '.[site]'" in capsys.readouterr().err
    assert not (tmp_path / "site").exists()


def test_a_damaged_record_is_named_and_the_others_are_shown(
    results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = results / "published" / "broken" / "row-1" / "record.json"
    broken.parent.mkdir(parents=True)
    broken.write_text("{")
    output = tmp_path / "site"
    assert main(["site", "--results", str(results), "--output", str(output)]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"not shown: {broken}: not a sppo-record/1 file")
    page = site_pages.parse((output / "index.html").read_bytes())
    assert "Not shown" in page.text
    assert "a-run" in page.text


def test_a_record_that_was_read_is_what_is_shown(results: Path) -> None:
    """A page of a row holds every plain value of its record."""
    files = build(results, "a test").files
    read = msgspec.json.decode(files["runs/a-run/row-1.record.json"], type=Record)
    text = site_pages.parse(files["runs/a-run/sppo.html"]).text
    for words in (read.started, read.settings_text, read.enforcement, "a" * 40, "subsequences"):
        assert str(words) in text
