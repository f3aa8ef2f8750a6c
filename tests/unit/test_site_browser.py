"""The site in a headless Chromium, from `file://`: charts, sorting, filtering, traces, widths."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks.records import record as records
from benchmarks.reporting import tables
from benchmarks.site import folder
from benchmarks.site.build import build
from benchmarks.site.sources.traces import PERFETTO
from tests.unit.records_factory import slower
from tests.unit.test_site_hostile import QUOTED, SCRIPT, write_run

CHECKOUT = Path(__file__).parents[2]
RUN = "runs/tiny-cpu-136MiB/index.html"
SWEEP = "studies/sweeps/tiny-cpu-device-memory.html"
TIMELINE = "timelines/tiny-cpu-136MiB/index.html"
POINTS = "paper/published-emulation/fig10-4-sequences.html"
PAGES = ("index.html", RUN, "runs/tiny-cpu-136MiB/sppo.html", SWEEP, TIMELINE, POINTS)
PHONE = 360
WIDER = (820, 1280)

VIEWER = """<script>
window.addEventListener("message", (event) => {
  if (event.data === "PING") event.source.postMessage("PONG", "*");
  else document.title = `${event.data.perfetto.buffer.byteLength} bytes`;
});
</script>"""
"""A page that answers as Perfetto does, and tells the size of its trace."""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api")
    program = shutil.which("chromium")
    if program is None:
        pytest.skip("no chromium on PATH: install Debian's package chromium")
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=program)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("site") / "site"
    folder.write(output, build(CHECKOUT / "results", "a test").files)
    return output


@pytest.fixture
def page(browser: Any) -> Iterator[Any]:
    """A page that keeps every message, error and request."""
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    messages: list[str] = []
    addresses: list[str] = []
    page.on("console", lambda message: messages.append(f"{message.type}: {message.text}"))
    page.on("pageerror", lambda error: messages.append(f"error: {error}"))
    page.on("requestfailed", lambda request: messages.append(f"failed: {request.url}"))
    page.on("request", lambda request: addresses.append(request.url))
    page.kept_messages, page.kept_addresses = messages, addresses
    yield page
    page.close()


def show(page: Any, root: Path, name: str) -> None:
    page.goto((root / name).as_uri())
    # A locator is polled from outside the page, whose policy forbids what wait_for_function does.
    for chart in page.locator(".chart").all():
        chart.locator(".main-svg .bglayer").first.wait_for(state="attached")


def outside(page: Any) -> list[str]:
    """Requests to anything but files."""
    return [url for url in page.kept_addresses if not url.startswith(("file:", "data:", "blob:"))]


def hover(page: Any) -> None:
    """Point at the last bar, and wait for its words."""
    bar = page.locator(".chart .barlayer .point").last.bounding_box()
    page.mouse.move(bar["x"] + 5, bar["y"] + bar["height"] / 2)
    page.locator(".hoverlayer .hovertext").wait_for()


def step_words() -> str:
    """SPPO's step in the table of the run."""
    done = records.read_all(CHECKOUT / "results" / "published" / "tiny-cpu-136MiB")
    (row,) = (row for row in tables.summaries(done) if row.system == "sppo")
    return tables.spread_words(row.step_seconds)


def column(page: Any, title: str) -> list[str]:
    """The cells of the first table's column with this title."""
    titles = page.locator("table").first.locator("th").all_inner_texts()
    place = next(place for place, each in enumerate(titles) if each.startswith(title))
    return page.locator(f"table >> nth=0 >> tbody tr td:nth-child({place + 1})").all_inner_texts()


def after_drawing(read: Callable[[], list[Any]], wanted: Callable[[list[Any]], bool]) -> list[Any]:
    """What the page shows once it is as wanted, or ten seconds later: tables draw after a click."""
    deadline = time.monotonic() + 10
    while not wanted(shown := read()) and time.monotonic() < deadline:
        time.sleep(0.05)
    return shown


def ascending(values: list[Any]) -> bool:
    return values == sorted(values)


@pytest.mark.parametrize("name", PAGES)
def test_a_page_says_no_error_asks_no_other_host_and_fits_its_window(
    page: Any, root: Path, name: str
) -> None:
    page.set_viewport_size({"width": PHONE, "height": 740})
    show(page, root, name)
    for width in (PHONE, *WIDER):
        page.set_viewport_size({"width": width, "height": 900})
        assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.kept_messages == []
    assert outside(page) == []


def test_a_run_sorts_by_value_tells_its_numbers_and_leads_to_records(page: Any, root: Path) -> None:
    show(page, root, RUN)
    header = page.locator("table").first.locator("th", has_text="step s").first

    def steps() -> list[float]:
        return [float(cell.split()[0]) for cell in column(page, "step s")]

    header.click()
    seconds = after_drawing(steps, ascending)
    assert len(seconds) > 2
    assert ascending(seconds)
    header.click()
    assert after_drawing(steps, lambda shown: shown == seconds[::-1]) == seconds[::-1]

    hover(page)
    words = step_words().split()[0]
    assert f"SPPO: {words} s" in page.locator(".hoverlayer").text_content()

    page.locator("table").first.get_by_role("link", name=step_words(), exact=True).click()
    page.wait_for_url("**/runs/tiny-cpu-136MiB/sppo.html")
    for heading in ("Launch 1", "Steps", "Settings", "Environment"):
        assert page.get_by_role("heading", name=heading, exact=True).count() >= 1


def test_sizes_sort_by_bytes_not_by_letters(page: Any, root: Path) -> None:
    show(page, root, POINTS)
    points = page.locator("table", has_text="host peak").last
    points.locator("th", has_text="device peak").click()
    place = points.locator("th").all_inner_texts()
    number = next(n for n, each in enumerate(place) if each.startswith("device peak"))
    cells = points.locator(f"tbody tr td:nth-child({number + 1})")

    def sizes() -> list[float]:
        return [float(each.split()[0]) for each in cells.all_inner_texts() if each.endswith("GiB")]

    peaks = after_drawing(sizes, ascending)
    assert len(peaks) >= 15
    assert ascending(peaks)


def test_a_filter_leaves_the_rows_with_the_words(page: Any, root: Path) -> None:
    show(page, root, SWEEP)
    before = column(page, "row")
    page.locator(".dt-search input").first.fill("megatron")
    after = after_drawing(
        lambda: column(page, "row"), lambda rows: all("Megatron" in row for row in rows)
    )
    assert 0 < len(after) < len(before)
    assert all("Megatron" in row for row in after)


def test_dark_colours_follow_the_reader(page: Any, root: Path) -> None:
    from playwright.sync_api import expect

    show(page, root, "index.html")
    page.emulate_media(color_scheme="dark")
    expect(page.locator("body")).to_have_css("background-color", "rgb(20, 23, 27)")
    words = page.locator(".xtick text").first
    expect(words).to_have_css("fill", "rgb(230, 232, 235)")


def test_a_trace_is_handed_to_perfetto(page: Any, root: Path) -> None:
    page.context.route(
        f"{PERFETTO}/**", lambda route: route.fulfill(body=VIEWER, content_type="text/html")
    )
    show(page, root, TIMELINE)
    with page.expect_popup() as opened:
        page.get_by_role("button", name="Open in Perfetto").first.click()
    opened.value.wait_for_function("document.title.endsWith(' bytes')")
    assert int(opened.value.title().split()[0]) > 10_000


def test_without_scripts_tables_and_numbers_are_there(browser: Any, root: Path) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto((root / RUN).as_uri())
    assert page.get_by_role("link", name=step_words(), exact=True).count() == 1
    context.close()


def test_a_hostile_record_runs_no_script(page: Any, tmp_path: Path) -> None:
    """Neither by the page, nor by the tables' and charts' own scripts."""
    for number, row in enumerate((SCRIPT, QUOTED), start=1):
        write_run(tmp_path, f"run-{number}", row=row, settings_text=row, reason=row)
        path = tmp_path / "published" / "run-1" / f"other-{number}" / "record.json"
        records.write(slower(row, "deepspeed", 2.0, settings_text=SCRIPT), path)
    folder.write(tmp_path / "site", build(tmp_path, "a test").files)
    page.on("dialog", lambda dialog: page.kept_messages.append(f"dialog: {dialog.message}"))
    for name in ("index.html", "runs/run-1/index.html"):
        show(page, tmp_path / "site", name)
    page.locator("table").first.locator("th").first.click()
    hover(page)
    assert "<script>alert(1)</script>" in page.locator(".chart").first.text_content()
    assert page.kept_messages == []
    assert outside(page) == []
