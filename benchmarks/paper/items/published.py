"""Committed emulations of the paper's points, and the commands that make absent ones."""

from __future__ import annotations

from benchmarks.paper.verdicts import SCHEMA, PaperPoints
from benchmarks.records.store import published_directory, read_json, readable

SEARCHED_SEQUENCES = 4
"""At most so many sequences a step the peers' grids are searched."""

SEQUENCES = (1, 4, 16)
"""Sequences a step for which fig. 10 is asked: the paper gives no number."""


def read(figure: str, sequences_per_step: int) -> PaperPoints | None:
    """The committed emulation of a figure; None where there is none. Raises RecordError."""
    path = readable(published_directory() / f"{name(figure, sequences_per_step)}.json")
    if not path.exists():
        return None
    return read_json(path, PaperPoints, SCHEMA, "publish the figure anew")


def name(figure: str, sequences_per_step: int) -> str:
    """ "emulation/fig10-4-sequences": the file's name below results/published/."""
    return f"emulation/fig{figure}-{sequences_per_step}-sequences"


def source(figure: str, sequences_per_step: int, points: PaperPoints) -> str:
    """The file and its commit, as the source of a point."""
    commit = points.environment.get("commit") or "unknown"
    file = f"results/published/{name(figure, sequences_per_step)}.json"
    return f"{file}, commit {commit[:9]}"


def command(figure: str, sequences_per_step: int) -> str:
    """The command that makes a committed emulation; searches at many sequences take days."""
    reading = " --readings paper" if sequences_per_step > SEARCHED_SEQUENCES else ""
    return (
        f"sppo-bench paper --emulate --figures {figure} "
        f"--sequences-per-step {sequences_per_step}{reading} --publish"
    )


def missing(figure: str, sequences_per_step: int) -> str:
    """A note of the page where an emulation is not committed."""
    count = f"{sequences_per_step} sequence{'s' if sequences_per_step > 1 else ''} a step"
    return (
        f"Peers at {count} are not committed. `{command(figure, sequences_per_step)}` makes them."
    )
