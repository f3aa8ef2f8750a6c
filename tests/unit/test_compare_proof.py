"""The proof of `sppo-bench compare`: recorded pairs, and tries that are drawn from them."""

from __future__ import annotations

import json
from itertools import islice
from pathlib import Path

import pytest

from benchmarks.docs import comparing
from benchmarks.records.store import RecordError
from benchmarks.regression.compare import recorded
from benchmarks.regression.compare.recorded import Header, pairs_of
from benchmarks.regression.compare.session import judge
from benchmarks.regression.compare.verdict import verdict
from tests.soak import compare_resample, compare_simulation
from tests.soak.compare_kinds import ENGINE, KINDS, slowed
from tests.soak.compare_live import FALSE
from tests.soak.compare_tries import MARGIN, PATIENT, SETTINGS, TARGET
from tests.unit.docs_text import CHECKOUT

BUSY = Path(__file__).parent / "recorded_pairs"
"""Identical code on two cores that a dozen programs shared."""


def test_recorded_pairs_of_a_busy_machine_call_identical_code_nothing() -> None:
    header, done = recorded.read(BUSY)
    (judged,) = judge(done, header).values()
    assert judged.outcome == "undecided"
    assert "too noisy: even the 2 fastest of 8 runs of BASE differ by 61.6 %" in judged.reason
    pairs = pairs_of(done, TARGET, "a/b")
    alone = verdict(pairs, pairs_of(done, TARGET, "a/a")[:3], 0.1)
    assert (alone.outcome, alone.pairs) == ("undecided", 6)
    assert alone.low < 1 < alone.high
    assert max(pair.head_seconds / pair.base_seconds for pair in pairs) > 1.5


def folder(place: Path, noise: str, pairs: int) -> Path:
    """Recorded pairs of every kind, of made noise."""
    for seed, kind in enumerate(KINDS):
        slower = 1.1 if kind == "slow-down" else 1.0
        header = Header(base="a", head="b", margin=MARGIN, targets=[TARGET])
        recorded.write_header(place / kind, header)
        draws = compare_simulation.draws(compare_simulation.NOISES[noise], slower, seed)
        for both in islice(zip(*draws(0), strict=False), pairs):
            for pair in both:
                recorded.append(place / kind, pair)
    return place


def test_drawn_tries_find_what_the_pairs_hold(tmp_path: Path) -> None:
    cases = compare_resample.resample(folder(tmp_path, "bursts", 60), tries=20)
    wrong = [case["worse"] + case["better"] for case in cases if case["kind"] != "slow-down"]
    assert max(wrong) <= 0.05
    assert cases[-1]["worse"] >= 0.95
    assert len(cases) == len(KINDS) * len(SETTINGS)


def test_too_few_pairs_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match="4 pairs are too few to draw from"):
        compare_resample.resample(folder(tmp_path, "quiet", 2), tries=1)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"kind": "quiet", "better": 0.02}, "identical code worse or better in 2.0%"),
        ({"kind": "bursty", "undecided": 0.3}, "undecided in 30%"),
        ({"kind": "slow-down", "worse": 0.98}, "worse in 98.0% only"),
    ],
)
def test_wrong_rates_are_faults(changes: dict[str, object], words: str) -> None:
    rates = {"worse": 0.0, "better": 0.0, "not_worse": 1.0, "undecided": 0.0}
    case = {"target_seconds": PATIENT.seconds, **rates, **changes}
    assert compare_resample.faults(case) == [words]


def test_the_planted_slow_down_has_its_place_in_the_engine() -> None:
    source = slowed((CHECKOUT / ENGINE).read_text())
    assert source.count("enough = ") == 1
    compile(source, str(ENGINE), "exec")


def test_the_recorded_pairs_and_the_live_tries_were_judged_right() -> None:
    """The published pairs, judged by the code as it is; the published tries as they were."""
    proofs = CHECKOUT / "results" / "published" / "proofs"
    outcomes = {}
    for kind in KINDS:
        header, done = recorded.read(proofs / "compare-pairs" / kind)
        (judged,) = judge(done, header).values()
        outcomes[kind] = judged.outcome
    assert outcomes == {"quiet": "not worse", "bursty": "not worse", "slow-down": "worse"}
    resampled = json.loads((proofs / "compare-resampled.json").read_text())
    assert [fault for case in resampled["cases"] for fault in compare_resample.faults(case)] == []
    live = json.loads((proofs / "compare-live.json").read_text())["tries"]
    assert [each for each in live if each["outcome"] in FALSE[each["kind"]]] == []


def test_the_page_names_every_noise_and_every_kind() -> None:
    assert set(comparing.NOISES) == set(compare_simulation.NOISES)
    assert tuple(comparing.KINDS) == KINDS
