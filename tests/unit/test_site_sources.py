"""Names and links of the site's sources that could clash, or lead out of the results."""

from __future__ import annotations

import csv
import os
import shutil
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

import pytest

from benchmarks.cli import main
from benchmarks.site import build as site_build
from benchmarks.site import folder
from benchmarks.site.build import build
from benchmarks.site.document import safe_name
from benchmarks.site.page import Chart
from benchmarks.site.site_paths import SitePaths
from benchmarks.site.sources import csv_points, runs
from tests.unit import site_pages
from tests.unit.test_site_hostile import SCRIPT, check_harmless, write_run

CHECKOUT = Path(__file__).parents[2]
PUBLISHED = CHECKOUT / "results" / "published"
RUN = "tiny-cpu-136MiB"


def legend(chart: Chart) -> list[str]:
    return [trace["name"] for trace in chart.figure["data"]]


@pytest.mark.parametrize("row", ["index", "Index", "INDEX.html"])
def test_a_row_named_like_the_runs_page_has_a_page_of_its_own(tmp_path: Path, row: str) -> None:
    write_run(tmp_path, "a-run", row=row)
    site = build(tmp_path, "a test")
    assert site.skipped == []
    own = [name for name in site.files if name.startswith("runs/a-run/") and name.endswith("html")]
    assert len(own) == 2
    assert site_pages.dead_links(site.files) == []


@pytest.mark.parametrize("name", ["index.html", "Index.HTML", ".index.html"])
def test_a_run_named_like_a_page_does_not_stand_in_its_way(tmp_path: Path, name: str) -> None:
    assert safe_name(name).lower() == "index-html"
    write_run(tmp_path, name)
    output = tmp_path / "site"
    command = ["site", "--results", str(tmp_path), "--output", str(output)]
    assert main(command) == 0
    assert (output / "runs" / "index.html").is_file()


def test_a_page_with_the_path_of_another_is_named_and_the_others_are_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_run(tmp_path, "first")
    write_run(tmp_path, "second")
    monkeypatch.setattr(runs, "unique_names", lambda names, **_: dict.fromkeys(names, "same"))
    site = build(tmp_path, "a test")
    (line,) = site.skipped
    assert line.startswith("second: two files of the site have the path runs/same/")
    listed = site_pages.parse(site.files["runs/index.html"]).text
    assert "first" in listed
    assert "second" not in listed


@pytest.mark.parametrize("names", [["a/b", "a"], ["a", "a/b"], ["a/b", "A/B"], ["A/b/c", "a/B"]])
def test_paths_that_cannot_lie_in_one_folder(tmp_path: Path, names: list[str]) -> None:
    with pytest.raises(ValueError, match="of the site have"):
        SitePaths().add(names)
    output = tmp_path / "site"
    folder.write(output, {"index.html": b"old"})
    with pytest.raises(ValueError, match="of the site have"):
        folder.write(output, dict.fromkeys(names, b""))
    assert (output / "index.html").read_bytes() == b"old"


@pytest.mark.parametrize("planted", ["page.html", "a", "page.html/", "page.html/notes.txt"])
def test_a_file_of_somebody_else_at_the_path_of_a_page_stays(tmp_path: Path, planted: str) -> None:
    output = tmp_path / "site"
    folder.write(output, {"index.html": b"old"})
    path = output / planted
    if planted.endswith("/"):
        path.mkdir()
    else:
        path.parent.mkdir(exist_ok=True)
        path.write_text("ours")
    with pytest.raises(ValueError, match="is not of the last site"):
        folder.write(output, {"index.html": b"new", "page.html": b"", "a/b.html": b""})
    assert (output / "index.html").read_bytes() == b"old"
    assert path.is_dir() or path.read_text() == "ours"


def test_a_page_may_take_the_place_of_an_old_folder_and_a_folder_that_of_an_old_page(
    tmp_path: Path,
) -> None:
    output = tmp_path / "site"
    folder.write(output, {"a/b/c.html": b"", "d": b""})
    folder.write(output, {"a": b"", "d/e/f.html": b""})
    assert (output / "a").is_file()
    assert (output / "d" / "e" / "f.html").is_file()


def test_a_write_that_fails_is_wrong_input(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    write_run(tmp_path, "a-run")
    monkeypatch.setattr(folder, "write", full)
    assert main(["site", "--results", str(tmp_path), "--output", str(tmp_path / "site")]) == 2
    assert "No space left on device" in capsys.readouterr().err


@pytest.mark.parametrize(
    "place", ["published/emulation", "published/longest", "paper", "history", "published"]
)
def test_a_linked_folder_is_not_followed(tmp_path: Path, place: str) -> None:
    secret = tmp_path / "results" / "runs"
    secret.mkdir(parents=True)
    for name in ("secret.csv", "secret.json", "secret.md", "secret.jsonl", "index.md"):
        (secret / name).write_text("hunter2")
    path = tmp_path / "results" / place
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to(secret)
    site = build(tmp_path / "results", "a test")
    assert site.skipped == []
    for name, data in site.files.items():
        assert "secret" not in name
        assert b"hunter2" not in data, name
        assert b"secret.jsonl" not in data, name


def test_a_linked_folder_of_published_results_is_followed(tmp_path: Path) -> None:
    points = tmp_path / "published" / "points"
    points.mkdir(parents=True)
    (points / "note.md").write_text("# A note")
    (tmp_path / "published" / "emulation").symlink_to(points)
    linked = tmp_path / "linked"
    linked.symlink_to(tmp_path)
    assert "paper/published-emulation/note.html" in build(linked, "a test").files


def test_a_linked_timeline_is_not_followed(tmp_path: Path) -> None:
    published = tmp_path / "results" / "published"
    run = shutil.copytree(PUBLISHED / RUN, published / RUN)
    place = f"timelines/{RUN}/measured.json"
    assert place in build(tmp_path / "results", "a test").files
    for number, path in enumerate(run.rglob("timeline-*.json")):
        outside = tmp_path / f"outside-{number}"
        os.rename(path, outside)
        path.symlink_to(outside)
    site = build(tmp_path / "results", "a test")
    assert site.skipped == []
    assert place not in site.files


def test_points_of_a_hostile_csv_stay_text(tmp_path: Path) -> None:
    paper = tmp_path / "paper"
    paper.mkdir()
    texts = f"{SCRIPT},{SCRIPT},{SCRIPT},<b>{SCRIPT}</b>,1.5,{SCRIPT},{SCRIPT},{SCRIPT}"
    head = "series,place,quantity,unit,value,outcome,label,source"
    (paper / "fig1.csv").write_text(f"{head}\n{texts}\n{texts}\n")
    site = build(tmp_path, "a test")
    assert site.skipped == []
    check_harmless(site.files)
    (chart,) = csv_points.charts(csv_points.read(paper / "fig1.csv"), "fig1.csv")
    layout = chart.figure["layout"]
    assert layout["yaxis"]["title"]["text"].startswith("&lt;b&gt;&lt;/script&gt;")
    assert "<script" not in str(chart.figure)
    assert "<img" not in str(chart.figure)


def test_an_svg_is_not_copied(tmp_path: Path) -> None:
    paper = tmp_path / "paper"
    paper.mkdir()
    (paper / "fig1.md").write_text("# Fig. 1")
    (paper / "fig1.svg").write_text("<svg onload='alert(1)'/>")
    site = build(tmp_path, "a test")
    assert "paper/paper/fig1.html" in site.files
    assert not [name for name in site.files if name.endswith(".svg")]


@pytest.mark.parametrize("item", ["fig10", "table3"])
def test_a_line_has_one_value_at_a_place(item: str) -> None:
    path = CHECKOUT / "results" / "paper" / "pages" / f"{item}.csv"
    charts = csv_points.charts(csv_points.read(path), path.name)
    for chart in charts:
        for trace in chart.figure["data"]:
            assert len(set(trace["x"])) == len(trace["x"]), trace["name"]
    with path.open(encoding="utf-8", newline="") as file:
        sources = {row["source"] for row in csv.DictReader(file)}
    for chart in charts:
        assert "sources" in chart.source or any(source in chart.source for source in sources)


def test_a_series_is_divided_by_what_tells_its_rows_apart(tmp_path: Path) -> None:
    lines = ["series,place,quantity,unit,value,label,source"]
    lines += ["A,1,time,s,1,emulated,x", "A,1,time,s,2,paper,x", "B,1,time,s,3,paper,y"]
    (tmp_path / "a.csv").write_text("\n".join(lines))
    (chart,) = csv_points.charts(csv_points.read(tmp_path / "a.csv"), "a.csv")
    assert legend(chart) == ["A (emulated)", "A (paper)", "B"]
    assert chart.source == "emulated; paper · x; y · a.csv"


def test_the_first_page_shows_the_longest_sequences_of_the_paper_once(tmp_path: Path) -> None:
    for place in ("published/emulation", "paper/pages"):  # both have fig. 12
        shutil.copytree(CHECKOUT / "results" / place, tmp_path / place)
    index = site_pages.parse(build(tmp_path, "a test").files["index.html"])
    shown = [href for href in index.links if "fig12" in href]
    assert shown == ["paper/published-emulation/fig12-1-sequences.html"]
    charts = [values for _, values in index.tags if values.get("class") == "chart"]
    assert len(charts) == 1


def test_a_plotly_without_its_licence_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def bare(name: str) -> object:
        return SimpleNamespace(files=None) if name == "plotly" else metadata.distribution(name)

    monkeypatch.setattr(site_build, "distribution", bare)
    assert main(["site", "--results", str(tmp_path), "--output", str(tmp_path / "site")]) == 2
    assert "plotly has no licence file" in capsys.readouterr().err
