"""Published records still give the published tables, byte for byte."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.records import record, store
from benchmarks.reporting import tables

RUNS = sorted(path.parent for path in store.published_directory().glob("*/table.md"))


def test_there_are_published_runs() -> None:
    assert len(RUNS) >= 2


@pytest.mark.parametrize("run", RUNS, ids=lambda run: run.name)
def test_tables_come_out_as_they_were_published(run: Path) -> None:
    done = record.read_all(run)
    assert tables.markdown(done) == (run / "table.md").read_text()
    assert tables.csv_text(done) == (run / "table.csv").read_text()
