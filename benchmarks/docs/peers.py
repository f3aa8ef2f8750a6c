"""Tables of docs/peers.md: all rows at a point of fig. 1, from the committed emulation."""

from __future__ import annotations

from benchmarks.docs.markdown import NOTHING, Columns, factor, gib, table
from benchmarks.docs.published import origin, read
from benchmarks.paper import speeds
from benchmarks.paper.items import published
from benchmarks.paper.verdicts import AT_BEST, Verdict

SEQUENCES = 1


def large_point(gpus: int) -> str:
    """Peaks, simulated steps and ratios of all rows on so many GPUs, the fastest first."""
    emulated = published.read("1", SEQUENCES)
    if emulated is None:
        raise ValueError(published.missing("1", SEQUENCES))
    verdicts = [verdict for verdict in emulated.verdicts if verdict.gpus == gpus]
    (sppo,) = speeds.sppo_steps(verdicts).values()
    columns: Columns = {
        "row": lambda verdict: verdict.rule_name.removesuffix(f", {AT_BEST}"),
        "reading": lambda verdict: verdict.reading_words,
        "layout": lambda verdict: verdict.settings_text,
        "device peak": lambda verdict: gib(verdict.peak_device_bytes),
        "step, exposed": lambda verdict: _seconds(verdict, verdict.step_seconds),
        "step, hidden": lambda verdict: _seconds(verdict, verdict.step_seconds_if_hidden),
        "SPPO faster by, exposed": lambda verdict: factor(speeds.exposed_ratio(verdict, sppo)),
        "hidden": lambda verdict: factor(speeds.hidden_ratio(verdict, sppo)),
        "without idle time": lambda verdict: factor(speeds.bubble_free_ratio(verdict, sppo)),
    }
    name = published.name("1", SEQUENCES)
    return table(columns, sorted(verdicts, key=_order)) + origin(read(name))


def _order(verdict: Verdict) -> tuple[bool, float]:
    """By step; rows without a step that fits stand last."""
    if not speeds.has_step(verdict):
        return True, 0.0
    return False, verdict.step_seconds or 0.0


def _seconds(verdict: Verdict, seconds: float | None) -> str:
    if verdict.status == "unavailable":
        return "cannot run"
    if verdict.status != "ok":
        return verdict.status
    return NOTHING if seconds is None else f"{seconds:,.1f} s"
