"""One look: what every published figure, and the smallest ones, must be."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import pytest
from matplotlib import rc_params_from_file
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.text import Text
from matplotlib.transforms import Bbox

from benchmarks import workloads
from benchmarks.commands.reports.redraw import redraw
from benchmarks.paper import boundaries_figure
from benchmarks.paper.verdicts import LongestVerdict, PaperPoints
from benchmarks.records import store, timeline
from benchmarks.reporting import bar_chart, style, timeline_figure
from benchmarks.studies import sweep_figure
from benchmarks.studies.sweep import SweepPoint
from sppo.config.hardware import load_hardware
from tests.unit.records_factory import record, slower
from tests.unit.test_paper_points import verdict
from tests.unit.test_sweep import summary
from tests.unit.test_timeline_verb import make_plan

ROOT = Path(__file__).parents[2] / "benchmarks"
SYSTEMS = ("sppo", "megatron", "megatron-ours", "deepspeed", "native", "registered")
PUBLISHED = sorted(
    str(path.relative_to(store.published_directory()))
    for path in store.published_directory().rglob("*.png")
)


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """A saved figure, with its words and where they lie, in pixels."""

    figure: Any
    words: list[tuple[Text, Bbox]]


def words_of(figure: Any) -> list[tuple[Text, Bbox]]:
    """The texts that are seen: of ticks only those inside the axes."""
    renderer = FigureCanvasAgg(figure).get_renderer()
    figure.draw(renderer)
    hidden: set[Text] = set()
    for axes in figure.axes:
        for axis in (axes.xaxis, axes.yaxis):
            seen = axis._update_ticks()
            ticks = {*axis.majorTicks, *axis.minorTicks}
            hidden |= {text for tick in ticks - set(seen) for text in (tick.label1, tick.label2)}
    return [
        (text, text.get_window_extent(renderer))
        for text in figure.findobj(Text)
        if text.get_visible() and text.get_text().strip() and text not in hidden
    ]


Draw = Callable[[Path], object]


def capture(draw: Draw, path: Path) -> dict[str, Drawn]:
    """What `draw` saves, by path below `path`."""
    drawn = {}
    save = Figure.savefig

    def keep(figure: Figure, target: Path) -> None:
        save(figure, target)
        name = str(target.relative_to(path))
        drawn[name] = Drawn(figure=figure, words=words_of(figure))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Figure, "savefig", keep)
        draw(path)
    return drawn


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Drawn]:
    return capture(
        lambda path: redraw(store.published_directory(), path), tmp_path_factory.mktemp("redrawn")
    )


def draw_bars(system: str, path: Path) -> None:
    bar_chart.bar_chart([slower(system, system, 2.0)], path / "bars.png")


def draw_failed_bars(system: str, path: Path) -> None:
    bar_chart.bar_chart([record(row=system, system=system, status="oom")], path / "bars.png")


def draw_sweep(system: str, path: Path, seconds: float | None = 1.0) -> None:
    rows = (summary(system, system, seconds, None),)
    one_value = SweepPoint(
        label="none", device_memory_bytes=None, sequences_per_step=1, folder="none", rows=rows
    )
    workload = workloads.find("mini-cpu")
    sweep_figure.line_chart(workload, "device-memory", [one_value], {}, path / "sweep.png")


def draw_failed_sweep(system: str, path: Path) -> None:
    draw_sweep(system, path, None)


def points(**rows: Any) -> PaperPoints:
    return PaperPoints(
        hardware="a100-80g",
        sequences_per_step=1,
        rules={},
        step_tokens=1024,
        environment={},
        **{"verdicts": [], "longest": [], **rows},
    )


def draw_point(system: str, path: Path) -> None:
    counted = verdict("512K", system, "oom", "fits", 90)
    row = msgspec.structs.replace(counted, system=system, at_best=True)
    boundaries_figure.draw(points(verdicts=[row]), path / "fig10.png")


def draw_longest(system: str, path: Path, beyond: str = "too long") -> None:
    row = LongestVerdict(
        gpus=8,
        rule_name=system,
        system=system,
        settings_text="",
        sequences_per_step=1,
        longest_tokens=1024**2,
        paper_tokens=0,
        peak_device_bytes={},
        peak_host_bytes={},
        roles=1,
        beyond=beyond,
        unanswered="",
    )
    boundaries_figure.draw(points(longest=[row]), path / "fig12.png")


def draw_timeline(_: str, path: Path) -> None:
    plan = make_plan()
    events = timeline.simulated(plan, load_hardware(plan.hardware))
    panel = timeline_figure.Panel(
        label="simulated", caption="a profile", stages=2, ranks=(0, 1), timelines=events
    )
    timeline_figure.draw([panel, panel], path / "timeline.png", title="a step")


SMALL = (
    draw_bars,
    draw_failed_bars,
    draw_sweep,
    draw_failed_sweep,
    draw_point,
    draw_longest,
    draw_timeline,
)


def check_words(drawn: Drawn) -> None:
    """No words overlap, leave the page, or lie on a bar or a line."""
    page = drawn.figure.bbox
    for text, box in drawn.words:
        assert page.x0 <= box.x0 <= box.x1 <= page.x1 + 1, text
        assert page.y0 <= box.y0 <= box.y1 <= page.y1, text
    shrunk = [(text, box.padded(-1)) for text, box in drawn.words]
    for (first, first_box), (second, second_box) in itertools.combinations(shrunk, 2):
        assert not first_box.overlaps(second_box), (first, second)
    bars = [bar for axes in drawn.figure.axes for bars in axes.containers for bar in bars]
    for bar in bars:
        if isinstance(bar, Rectangle) and bar.get_width() and bar.get_height():
            for text, box in shrunk:
                assert not box.overlaps(bar.get_window_extent()), text
    for line in (line for axes in drawn.figure.axes for line in axes.lines):
        path = line.get_transform().transform_path(line.get_path())
        for text, box in shrunk:
            assert len(path) < 2 or not path.intersects_bbox(box, filled=False), text


@pytest.mark.parametrize("name", PUBLISHED)
def test_words_of_published_figures_lie_free(name: str, published: dict[str, Drawn]) -> None:
    check_words(published[name])


@pytest.mark.parametrize("draw", SMALL)
def test_words_of_the_smallest_figures_lie_free(
    draw: Callable[[str, Path], None], tmp_path: Path
) -> None:
    (drawn,) = capture(lambda path: draw("megatron", path), tmp_path).values()
    check_words(drawn)


@pytest.mark.parametrize("name", PUBLISHED)
def test_axes_start_at_zero(name: str, published: dict[str, Drawn]) -> None:
    """The value's axis; places of a group have no zero."""
    for axes in published[name].figure.axes:
        limits = axes.get_xlim() if name.endswith(("figure.png", "MiB.png")) else axes.get_ylim()
        assert limits[0] == 0 or min(limits) == 0


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_last_line_says_where_numbers_come_from(name: str, published: dict[str, Drawn]) -> None:
    title, source = (text.get_text() for text in published[name].figure.texts)
    assert title
    assert re.match(r"(measured|emulated) · .+ · commit [0-9a-f]{9}", source)
    assert all(axes.get_xlabel() or axes.get_ylabel() for axes in published[name].figure.axes)


FURTHER = [pytest.param(name, marks=pytest.mark.soak) for name in SYSTEMS if name != "megatron"]


@pytest.mark.parametrize("system", ["megatron", *FURTHER])
def test_a_system_has_one_colour_hatch_and_marker(system: str, tmp_path: Path) -> None:
    look = style.look(system)
    for draw in (draw_bars, draw_point, draw_longest):
        (drawn,) = capture(lambda path, draw=draw: draw(system, path), tmp_path).values()
        bar = drawn.figure.axes[0].containers[0].patches[0]
        assert to_hex(bar.get_facecolor()) == look.colour
        assert (bar.get_hatch() or "") == look.hatch
    for draw, inside in ((draw_sweep, look.colour), (draw_failed_sweep, style.PAPER)):
        (drawn,) = capture(lambda path, draw=draw: draw(system, path), tmp_path).values()
        line = next(line for line in drawn.figure.axes[0].lines if len(line.get_xdata()))
        assert (line.get_color(), line.get_marker()) == (look.colour, look.marker)
        assert line.get_markerfacecolor() == inside


def test_systems_differ_in_colour_and_in_black_and_white() -> None:
    for field in ("colour", "marker", "hatch"):
        assert len({getattr(style.look(system), field) for system in SYSTEMS}) == len(SYSTEMS)


@pytest.mark.parametrize(("beyond", "words"), [("too long", "1M"), ("", "≥ 1M")])
def test_a_search_that_ended_at_its_cap_is_at_least(
    beyond: str, words: str, tmp_path: Path
) -> None:
    (drawn,) = capture(lambda path: draw_longest("sppo", path, beyond), tmp_path).values()
    assert words in [text.get_text() for text, _ in drawn.words]
    arrows = [text for text in drawn.figure.axes[0].texts if text.arrow_patch is not None]
    assert len(arrows) == (0 if beyond else 1)


def figure_files() -> Iterator[Path]:
    for path in ROOT.rglob("*.py"):
        if path.name != "style.py" and re.search("matplotlib|style", path.read_text()):
            yield path


def test_only_the_style_names_a_colour() -> None:
    files = list(figure_files())
    assert len(files) >= 5
    literal = re.compile(r"""#[0-9a-fA-F]{6}|colou?rs?["']?\s*[=:]\s*\(?["']""")
    for path in files:
        assert not literal.search(path.read_text()), path
    sheet = rc_params_from_file(style._SHEET, use_default_template=False)
    named = {value for value in sheet.values() if str(value).startswith("#")}
    assert named == {style.INK, style.FAINT, "#d9dce1"}
