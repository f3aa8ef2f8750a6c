"""The verdict on a row's times, and the ratios that follow, from launches made by hand."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.records import timing
from benchmarks.records.claim import claim, to_repeat, yardstick
from benchmarks.records.machine import MachineState
from benchmarks.records.record import Record, grouped
from benchmarks.records.timing import TOLERANCE, timings
from benchmarks.reporting import tables
from tests.unit.timing_cases import BUSY, LABELS, QUIET, around, launch, machine, run_of

MEGATRON = LABELS["megatron"]
SECONDS = st.floats(min_value=0.5, max_value=2.0)
FEW = settings(max_examples=20, deadline=None)


def ratio(done: Sequence[Record]) -> Any:
    """The claim about Megatron."""
    return claim(grouped(done, "row")[MEGATRON], yardstick(done), timings(done))


def test_launches_that_agree_are_steady_and_their_ratio_has_an_interval() -> None:
    done = run_of({"megatron": (1.5, 1.51, 1.5), "sppo": (1.0, 1.01, 1.0)})
    assert {judged.verdict for judged in timings(done).values()} == {"steady"}
    claimed = ratio(done)
    assert claimed.ratio == pytest.approx(1.5, rel=0.01)
    assert claimed.low < claimed.ratio < claimed.high
    assert to_repeat(done) == []


def test_launches_far_apart_are_unsettled_and_no_ratio_is_claimed() -> None:
    """The field report: 1.9 s and 3.0 s a step, and a table that claimed 1.59x."""
    done = run_of({"megatron": (3.5, 3.5), "sppo": (1.9, 3.0)})
    judged = timings(done)
    assert judged["SPPO"].verdict == "unsettled"
    assert "2 launches took 1.900 to 3.000 s a step" in judged["SPPO"].reason
    assert judged["SPPO"].between == pytest.approx(3.0 / 1.9 - 1)
    assert judged[MEGATRON].verdict == "steady"
    assert ratio(done).reason == "SPPO is unsettled"
    assert ratio(done).ratio is None
    assert to_repeat(done) == [MEGATRON, "SPPO"]


def test_a_disturbed_launch_is_set_aside_once_enough_others_agree() -> None:
    medians = {"megatron": (3.0, 3.0, 3.0, 3.0), "sppo": (1.9, 3.0, 1.92, 1.91)}
    done = run_of(medians, [QUIET, BUSY, QUIET, QUIET])
    judged = timings(done)["SPPO"]
    assert judged.verdict == "noisy"
    assert judged.reason.startswith("1 of 4 launches disturbed (others took 30% of the cores")
    assert judged.used == {1, 3, 4}
    assert ratio(done).ratio == pytest.approx(3.0 / 1.91, rel=0.01)
    summary = tables.summaries(done)[-1]
    assert summary.step_seconds is not None
    assert summary.step_seconds.high < 2.0


def test_only_disturbed_launches_claim_nothing_however_well_they_agree() -> None:
    done = run_of({"megatron": (1.5, 1.5), "sppo": (1.0, 1.0)}, [BUSY, BUSY])
    assert {judged.verdict for judged in timings(done).values()} == {"unsettled"}
    assert ratio(done).ratio is None


def test_launches_that_differ_a_little_are_noisy_and_keep_their_ratio() -> None:
    done = run_of({"sppo": (1.0, 1.06)})
    assert timings(done)["SPPO"].verdict == "noisy"


def test_a_single_launch_shows_no_spread() -> None:
    done = run_of({"megatron": (1.5,), "sppo": (1.0,)})
    assert timings(done)["SPPO"].verdict == "unsettled"
    assert "single launch" in timings(done)["SPPO"].reason
    assert ratio(done).ratio is None


def test_records_without_readings_are_not_judged_and_keep_their_ratio() -> None:
    done = run_of({"megatron": (1.5, 1.5), "sppo": (1.0, 1.0)}, [None, None])
    assert {judged.verdict for judged in timings(done).values()} == {None}
    assert ratio(done).ratio == 1.5
    assert to_repeat(done) == []
    (row, *_) = tables.summaries(done)
    assert (row.timing, row.sppo_speed_up) == (None, 1.5)


def test_a_row_that_failed_has_no_verdict() -> None:
    done = run_of({"megatron": (1.5, 1.5), "sppo": (1.0, 1.0)})
    done[-2] = msgspec.structs.replace(done[-2], status="oom")
    assert timings(done)[MEGATRON].verdict is None
    assert ratio(done).ratio is None
    assert to_repeat(done) == []


def test_pairs_are_launches_that_ran_next_to_each_other() -> None:
    """Launch 2 of both rows was twice as slow, unseen: their ratio is the same."""
    done = run_of({"megatron": (1.5, 3.0), "sppo": (1.0, 2.0)}, [None, None])
    assert ratio(done).ratio == pytest.approx(1.5)
    assert claim([], yardstick(done), timings(done)).ratio is None


def in_turn(done: Sequence[Record]) -> list[Record]:
    """These launches, started one after another."""
    stamps = (f"2026-11-24T07:{minute:02d}:00.000000Z" for minute in range(60))
    pairs = zip(done, stamps, strict=False)
    return [msgspec.structs.replace(record, started=stamp) for record, stamp in pairs]


@pytest.mark.parametrize("state", [QUIET, None])
def test_launches_made_up_for_after_an_oom_are_no_pair_of_their_number(
    state: MachineState | None,
) -> None:
    """A row ran out of memory in round 2. Launches 1 and 2 of its replacement ran back to back."""
    medians = {"megatron": (1.52, 1.5), "sppo": (1.0, 1.0)}
    megatron_1, sppo_1, megatron_2, sppo_2 = run_of(medians, [state] * 2)
    refused = msgspec.structs.replace(megatron_2, row="refused", status="oom")
    done = in_turn([sppo_1, refused, megatron_1, megatron_2, sppo_2])
    assert timings(done)[MEGATRON].late == {1}
    assert timings(done)["SPPO"].late == frozenset()
    if state is None:
        assert (ratio(done).ratio, ratio(done).low) == (1.5, None), "of a single pair"
    else:
        assert ratio(done).reason == "1 undisturbed pairs of launches are too few of 3"
        assert to_repeat(done) == ["SPPO", MEGATRON]


def test_interleaved_launches_are_all_pairs_of_their_number() -> None:
    medians = {"megatron": (1.5, 1.5, 1.5), "sppo": (1.0, 1.0, 1.0)}
    megatron_1, sppo_1, megatron_2, sppo_2, *third = run_of(medians)
    done = in_turn([megatron_1, sppo_1, sppo_2, megatron_2, *third])
    assert not any(judged.late for judged in timings(done).values())
    assert ratio(done).ratio == pytest.approx(1.5)


def test_a_ratio_needs_three_undisturbed_pairs() -> None:
    """Two pairs may agree by chance. Launches disturbed in different pairs leave even fewer."""
    medians = {"megatron": (1.5, 1.5, 1.5), "sppo": (1.0, 1.0, 1.0)}
    done = run_of(medians, [BUSY, QUIET, QUIET])
    assert {judged.verdict for judged in timings(done).values()} == {"noisy"}
    assert ratio(done).reason == "2 undisturbed pairs of launches are too few of 3"
    assert to_repeat(done) == [MEGATRON, "SPPO"]
    assert ratio(run_of(medians)).ratio == pytest.approx(1.5)
    done = run_of(medians)
    done[0] = msgspec.structs.replace(done[0], machine_state=BUSY)
    done[3] = msgspec.structs.replace(done[3], machine_state=BUSY)
    assert {judged.verdict for judged in timings(done).values()} == {"noisy"}
    assert ratio(done).reason == "1 undisturbed pairs of launches are too few of 3"
    assert to_repeat(done) == [MEGATRON, "SPPO"]


def test_a_third_launch_of_sppo_alone_is_no_third_pair() -> None:
    done = run_of({"megatron": (1.5, 1.5), "sppo": (1.0, 1.0, 1.0)})
    assert ratio(done).reason == "2 undisturbed pairs of launches are too few of 3"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"foreign_cpu_seconds": 1.2}, "others took 6% of the cores"),
        ({"stolen_cpu_seconds": 1.9}, "others took 10% of the cores"),
        ({"kernel_after_seconds": 0.0039}, "the kernel beside launch 1 was 30% slower"),
        ({"kernel_after_seconds": 0.0036}, ""),
        ({"throttled_seconds": 1.0}, "launch 1: no CPU quota for 10% of the timed steps"),
        ({"gpu_clock_reasons": ["hw thermal", "sw power cap"]}, "were lowered: hw thermal"),
        ({"thermal_events": 3}, "too hot 3 times"),
        ({"gpu_clock_reasons": ["sw power cap"]}, ""),
        ({"foreign_cpu_seconds": 9.0, "cores": 4}, ""),
        ({"foreign_cpu_seconds": None, "stolen_cpu_seconds": None}, ""),
        ({"window_seconds": None}, ""),
        ({"kernel_before_seconds": None, "kernel_after_seconds": None}, ""),
    ],
)
def test_what_disturbs_a_launch(changes: dict[str, Any], words: str) -> None:
    """Idle cores are enough for a neighbour; a power cap is usual; the unknown is no reason."""
    disturbed = launch("sppo", 1, around(1.0), machine(**changes))
    cause = timing.disturbance(disturbed, {2: 0.003})
    assert words in cause
    assert bool(cause) == bool(words)


def test_kernels_on_other_numbers_of_cores_are_not_compared() -> None:
    """The reference may want all cores of a machine on which the rows want two."""
    done = run_of({"sppo": (1.0, 1.0)})
    state = machine(cores=2, wanted_cores=1, kernel_before_seconds=0.001)
    reference = msgspec.structs.replace(done[0], system="reference", machine_state=state)
    assert timings([reference, *done])["SPPO"].verdict == "steady"


@FEW
@given(st.lists(SECONDS, min_size=2, max_size=5), st.lists(SECONDS, min_size=2, max_size=5))
def test_a_claim_of_judged_rows_is_as_narrow_as_promised(
    megatron: list[float], sppo: list[float]
) -> None:
    done = run_of({"megatron": megatron, "sppo": sppo})
    claimed = ratio(done)
    if claimed.ratio is None:
        assert claimed.reason
        assert MEGATRON in to_repeat(done)
    else:
        assert claimed.low <= claimed.ratio <= claimed.high
        assert claimed.high - claimed.ratio <= TOLERANCE * claimed.ratio * (1 + 1e-9)
        assert claimed.ratio - claimed.low <= TOLERANCE * claimed.ratio * (1 + 1e-9)
        assert "unsettled" not in {judged.verdict for judged in timings(done).values()}


@FEW
@given(st.lists(SECONDS, min_size=2, max_size=4), st.integers(0, 99), st.sampled_from((0.5, 4.0)))
def test_a_verdict_knows_neither_order_nor_unit(
    medians: list[float], seed: int, unit: float
) -> None:
    done = run_of({"sppo": medians})
    verdict = timings(done)["SPPO"].verdict
    random.Random(seed).shuffle(done)
    assert timings(done)["SPPO"].verdict == verdict
    scaled = run_of({"sppo": [unit * median for median in medians]})
    assert timings(scaled)["SPPO"].verdict == verdict


@FEW
@given(SECONDS, st.floats(min_value=1.2, max_value=3.0))
def test_two_launches_far_apart_are_never_settled(median: float, factor: float) -> None:
    done = run_of({"sppo": (median, factor * median)})
    assert timings(done)["SPPO"].verdict == "unsettled"
    assert to_repeat(done) == ["SPPO"]


def neighbour_run(generator: random.Random, rounds: int) -> list[Record]:
    """A run beside a neighbour of random bursts. The true ratio is 1.3."""

    def one(system: str, median: float, number: int) -> Record:
        taken = generator.choice((0.0, 0.0, 0.01, 0.1, 0.3, 0.6))
        slower = 1 + 1.5 * taken * generator.random()
        seconds = [median * slower * generator.gauss(1.0, 0.012) for _ in range(5)]
        return launch(system, number, seconds, machine(foreign_cpu_seconds=20 * taken))

    done: list[Record] = []
    for number in range(1, 3 + rounds):
        if number > 2 and not to_repeat(done):
            break
        done += [one("megatron", 1.3, number), one("sppo", 1.0, number)]
    return done


def test_beside_a_bursty_neighbour_no_claim_is_far_off() -> None:
    """Twenty runs: a ratio is either claimed within 5 %, or the table claims none."""
    generator = random.Random(5)
    claims = [ratio(neighbour_run(generator, rounds=6)) for _ in range(20)]
    made = [claimed.ratio for claimed in claims if claimed.ratio is not None]
    assert [value for value in made if abs(value / 1.3 - 1) > TOLERANCE] == []
    assert 5 <= len(made) < 20, "some runs claim, and some do not"
    assert all(claimed.reason for claimed in claims if claimed.ratio is None)
