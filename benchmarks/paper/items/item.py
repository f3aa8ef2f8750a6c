"""A figure or table of the paper made anew: labelled points, and ours beside the paper's."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

Label = Literal["measured", "emulated", "simulated", "computed", "paper", "datasheet"]
"""What a number is (README.md). `computed`: from shapes or a formula, without a simulation."""

LABELS: tuple[Label, ...] = get_args(Label)


class NotCommitted(ValueError):
    """An item needs a committed file that is not there; the message says how to make it."""


@dataclass(frozen=True, kw_only=True)
class Point:
    """One number of an item, a row of its CSV.

    series: the line or bars that it belongs to. place: its position on the axis, in words.
    quantity, unit: what the number is. value: None where there is none; `outcome` then says why,
    such as "oom". settings: the layout or the assumptions. kernel_limit_share: of a simulated step,
    its MFU over the most that the profile's kernels allow.

    Raises ValueError without a label, without a source, and without both value and outcome.
    """

    series: str
    place: str
    quantity: str
    unit: str
    value: float | None
    outcome: str = ""
    label: Label
    source: str
    settings: str = ""
    kernel_limit_share: float | None = None

    def __post_init__(self) -> None:
        name = f"point {self.series!r} at {self.place!r}"
        if self.label not in LABELS:
            raise ValueError(
                f"{name} has the label {self.label!r}: take one of {', '.join(LABELS)}"
            )
        if not self.source:
            raise ValueError(f"{name} has no source: name the file, the plan or the datasheet")
        if self.value is None and not self.outcome:
            raise ValueError(f"{name} has no value: say the outcome, such as 'oom'")


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """A number of ours beside the paper's.

    form: how both are written, such as "{:.1f} h". cause: why they differ, with a number that the
    page shows; "" where they agree.
    """

    what: str
    ours: float | None
    ours_label: Label
    paper: float
    form: str
    cause: str = ""

    @property
    def difference(self) -> float | None:
        """Ours over the paper's, less 1; None without a number of ours."""
        return None if self.ours is None else self.ours / self.paper - 1


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table of a page: a heading, titles, and rows of finished cells."""

    heading: str
    titles: Sequence[str]
    rows: Sequence[Sequence[str]]
    align: str = ""


@dataclass(frozen=True, kw_only=True)
class Item:
    """A figure or table of the paper.

    key: "fig1" or "table3", the name of its files. compares: what is compared, for the index.
    agreement: how near ours is, as a number in words. verdict: one sentence. notes: paragraphs of
    the page. draw: draws on a matplotlib figure of `inches`; `drawn_source` is its last line.
    """

    key: str
    title: str
    compares: str
    points: Sequence[Point]
    comparisons: Sequence[Comparison] = ()
    agreement: str
    verdict: str
    notes: Sequence[str] = ()
    tables: Sequence[Table] = ()
    draw: Callable[[Any], None]
    inches: tuple[float, float] = (9.0, 4.4)
    drawn_source: str

    def rows(self) -> list[Mapping[str, Any]]:
        """The points for a CSV, one flat row each."""
        return [{"item": self.key, **asdict(point)} for point in self.points]


AGREES_WITHIN = 0.10
"""The difference up to which a simulated number agrees with the paper's."""


def agreeing(comparisons: Sequence[Comparison], within: float = AGREES_WITHIN) -> int:
    """How many numbers differ by at most `within`."""
    differences = [each.difference for each in comparisons]
    return sum(each is not None and abs(each) <= within for each in differences)


def largest_difference(comparisons: Sequence[Comparison]) -> float | None:
    """The difference farthest from 0, with its sign; None where nothing is compared."""
    differences = [each.difference for each in comparisons if each.difference is not None]
    return max(differences, key=abs, default=None)


def value_of(points: Sequence[Point], series: str, place: str) -> float | None:
    """The value of a series at a place; None where it has none. Raises KeyError without a point."""
    for point in points:
        if (point.series, point.place) == (series, place):
            return point.value
    raise KeyError(f"no point of {series!r} at {place!r}")
