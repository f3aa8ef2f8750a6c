"""The winner of a measured grid."""

from __future__ import annotations

from benchmarks.rows.tuning import GridPoint, fastest


def point(name: str, seconds: float | None, launches: int, peak_bytes: int = 100) -> GridPoint:
    return GridPoint(
        settings={"name": name},
        settings_text=name,
        status="oom" if seconds is None else "ok",
        launches=launches,
        step_seconds_median=seconds,
        tracked_peak_bytes=peak_bytes,
    )


def name_of(points: list[GridPoint], within_bytes: int | None = None) -> str | None:
    found = fastest(points, within_bytes)
    return None if found is None else found.settings_text


def test_one_lucky_launch_does_not_beat_those_launched_again() -> None:
    points = [point("lucky", 2.0, 1), point("first", 2.4, 3), point("second", 2.6, 3)]
    assert name_of(points) == "first"


def test_under_a_limit_only_what_fits_counts() -> None:
    points = [
        point("large", 2.0, 3, 200),
        point("small", 3.0, 1, 90),
        point("other", 2.9, 1, 80),
        point("broken", None, 1),
    ]
    assert name_of(points, 100) == "other"
    assert name_of(points, 50) is None
    assert name_of([point("broken", None, 3)]) is None
