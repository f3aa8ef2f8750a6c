"""Foreign files in the site: scripts in names, paths that lead out, numbers that are none."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

import pytest

from benchmarks.records import record as records
from benchmarks.site import folder
from benchmarks.site.build import build
from tests.unit import site_pages
from tests.unit.records_factory import record

SCRIPT = '</script><script>alert(1)</script><img src=x onerror="alert(2)">'
QUOTED = "\"'><img src=//evil.example/x.png onload=alert(3)>{{ 7*7 }}"
CLIMB = "../../../../tmp/climbed"
FORBIDDEN = ("iframe", "object", "embed", "form", "base", "style", "svg")


def write_run(results: Path, name: str, **changes: Any) -> Path:
    path = results / "published" / name / "row-1" / "record.json"
    records.write(record(**changes), path)
    return path


def page_root(name: str) -> str:
    return "../" * name.count("/")


def check_harmless(files: dict[str, bytes]) -> None:
    """No tag, attribute or address that a template did not write."""
    assert site_pages.dead_links(files) == []
    for name, page in site_pages.pages(files).items():
        for tag, values in page.tags:
            assert not [key for key in values if key.startswith("on")], name
            assert "evil.example" not in values.get("src", ""), name
            assert not values.get("href", "").lower().startswith(("javascript:", "//")), name
            if tag == "script":
                own = values.get("src", "").removeprefix(page_root(name)).startswith("assets/")
                assert own or values == {"type": "application/json"}, name
            assert tag not in FORBIDDEN, name


@pytest.mark.parametrize("planted", [SCRIPT, '<a href="javascript:alert(1)">x</a>', "<svg></svg>"])
def test_a_planted_tag_is_found(planted: str) -> None:
    with pytest.raises(AssertionError):
        check_harmless({"index.html": planted.encode()})


def test_a_hostile_record_stays_text(tmp_path: Path) -> None:
    workload = dataclasses.replace(record().workload, name=SCRIPT, text=CLIMB)
    write_run(
        tmp_path,
        "run <script>alert(1)<",
        workload=workload,
        row=SCRIPT,
        settings_text=QUOTED,
        settings={QUOTED: SCRIPT, CLIMB: {"deep": [SCRIPT, 10**30]}},
        reason=SCRIPT,
        grid=CLIMB,
        environment={"commit": SCRIPT, "cpu_model": QUOTED, "cores": 2, SCRIPT: CLIMB},
    )
    site = build(tmp_path, SCRIPT)
    assert site.skipped == []
    check_harmless(site.files)
    text = site_pages.parse(site.files["runs/index.html"]).text
    assert "run <script>alert(1)<" in text
    page = site_pages.parse(site.files["runs/run-script-alert-1/index.html"])
    assert SCRIPT in page.text
    assert "{{ 7*7 }}" in page.text


def test_hostile_names_of_folders_lead_nowhere(tmp_path: Path) -> None:
    names = ["..%2f..%2fetc", "a b", "a-b", "...", "-", os.fsdecode(b"run-\xff"), "x" * 200, "%00"]
    for name in names:
        write_run(tmp_path, name)
    site = build(tmp_path, "a test")
    assert site.skipped == []
    check_harmless(site.files)
    output = tmp_path / "deep" / "site"
    folder.write(output, site.files)
    written = {str(path.relative_to(output)) for path in output.rglob("*") if path.is_file()}
    assert written == {*site.files, folder.MARKER}
    assert len({name for name in site.files if name.endswith("index.html")}) >= len(names)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["deep", "published"]


@pytest.mark.parametrize(
    ("key", "text"),
    [
        ("step_seconds_median", "NaN"),
        ("step_seconds_median", "1e999"),
        ("step_seconds_median", "Infinity"),
        ("tokens_per_step", "9" * 5000),
        ("settings_text", '"\\ud800"'),
        ("environment", "[1, 2]"),
        ("environment", '{"versions": [1], "commit": 7}'),
        ("environment", '{"cores": "many", "commit": {"a": 1}}'),
        ("launch", '"../../x"'),
        ("plan", '{"stages": "none", "lengths_tokens": 3}'),
        ("workload", '"../../../etc/passwd"'),
    ],
)
def test_a_value_of_a_wrong_shape_is_text_or_named(tmp_path: Path, key: str, text: str) -> None:
    write_run(tmp_path, "good")
    path = write_run(tmp_path, "bad")
    values = json.loads(path.read_text())
    values[key] = "@@"
    path.write_text(json.dumps(values).replace('"@@"', text))
    site = build(tmp_path, "a test")
    check_harmless(site.files)
    assert "runs/good/index.html" in site.files
    shown = "runs/bad/index.html" in site.files
    assert shown != bool([line for line in site.skipped if str(path.parents[1]) in line])


def test_numbers_beyond_reason_are_shown(tmp_path: Path) -> None:
    steps = [
        records.StepRecord(phase="measured", tokens=2**62, seconds=1e300, loss=None, grad_norm=0.0)
    ]
    write_run(tmp_path, "huge", steps=steps, step_seconds_median=1e-300, bubble_share=-1e308)
    site = build(tmp_path, "a test")
    assert site.skipped == []
    for name, data in site.files.items():
        if name.endswith(".html"):
            assert b"NaN" not in data, name
            assert b"Infinity" not in data, name


def test_hostile_items_of_the_paper_stay_text(tmp_path: Path) -> None:
    paper = tmp_path / "paper"
    paper.mkdir()
    (tmp_path / "secret.csv").write_text("password\nhunter2\n")
    (paper / "index.md").write_text(
        f"# Items {SCRIPT}\n\n{SCRIPT}\n\n<img src=//evil.example/a>\n\n"
        "![x](https://evil.example/x.png) [a](javascript:alert(1)) [b](../../secret.md)\n"
        "[fig1](fig1.md) [fig1 up](../fig1.md) [d](data:text/html,x) [e](//evil.example)\n\n"
        "| item | agreement |\n|---|---|\n| <b>fig1</b> | 0.97 |\n| fig2 | `<i>` |\n"
    )
    (paper / "fig1.md").write_text("# Fig. 1\n\nours\n")
    (paper / "fig1.csv").write_text(f"label,value\nmeasured,1.5\n{SCRIPT},nan\nshort\n\n=1+1,2,3\n")
    (paper / "fig1.png").write_bytes(b"\x89PNG")
    (paper / "fig2.svg").write_text("<svg onload='alert(1)'/>")
    (paper / "fig3.md").write_bytes(b"# \xff\xfe\x00\n")
    (paper / "leak.csv").symlink_to(tmp_path / "secret.csv")
    (paper / "fig4.csv").write_text("")
    (paper / "fig5.json").write_text("{")
    site = build(tmp_path, "a test")
    assert site.skipped == []
    check_harmless(site.files)
    names = {name for name in site.files if name.startswith("paper/paper/")}
    assert {"paper/paper/index.html", "paper/paper/fig1.html", "paper/paper/fig1.csv"} <= names
    assert not [name for name in names if "leak" in name or "fig5" in name]
    for page in site_pages.pages(site.files).values():
        assert not [href for href in page.links if href.endswith(".svg")]
    assert b"hunter2" not in b"".join(site.files.values())
    index = site_pages.parse(site.files["paper/paper/index.html"])
    assert [href for href in index.links if "fig1" in href] == ["fig1.html"]
    assert b"evil.example/x.png" not in b"".join(
        values.get("src", "").encode() for _, values in index.tags
    )


def test_a_manifest_that_leads_out_removes_nothing(tmp_path: Path) -> None:
    output = tmp_path / "site"
    folder.write(output, {"index.html": b"one", "old/page.html": b"two"})
    (tmp_path / "precious").write_text("ours")
    marker = output / folder.MARKER
    manifest = json.loads(marker.read_text())
    manifest["files"] += [
        "../precious",
        str(tmp_path / "precious"),
        "old/../../precious",
        ".",
        "..",
    ]
    marker.write_text(json.dumps(manifest))
    folder.write(output, {"index.html": b"three"})
    assert (tmp_path / "precious").read_text() == "ours"
    assert not (output / "old").exists()
    assert (output / "index.html").read_bytes() == b"three"


@pytest.mark.parametrize("name", ["../x.html", "a/../../x.html", "linked/x.html", ".."])
def test_no_file_is_written_outside_the_folder(tmp_path: Path, name: str) -> None:
    output = tmp_path / "site"
    folder.write(output, {"index.html": b""})
    (tmp_path / "outside").mkdir()
    (output / "linked").symlink_to(tmp_path / "outside")
    with pytest.raises(ValueError, match="lies outside"):
        folder.write(output, {name: b"x"})
    assert not (tmp_path / "x.html").exists()
    assert list((tmp_path / "outside").iterdir()) == []


def test_a_link_at_the_place_of_an_old_page_is_replaced_not_followed(tmp_path: Path) -> None:
    output = tmp_path / "site"
    folder.write(output, {"index.html": b"", "page.html": b"old"})
    (output / "page.html").unlink()
    (tmp_path / "precious").write_text("ours")
    (output / "page.html").symlink_to(tmp_path / "precious")
    folder.write(output, {"index.html": b"", "page.html": b"new"})
    assert (tmp_path / "precious").read_text() == "ours"
    assert (output / "page.html").read_bytes() == b"new"
