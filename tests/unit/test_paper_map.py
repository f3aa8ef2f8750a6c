"""Beyond the paper: places, bounds beside emulations, verdicts, and the command that makes both."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import msgspec
import pytest

from baselines import registry as registry_of_systems
from benchmarks.cli import main
from benchmarks.emulation.emulator import Emulator
from benchmarks.emulation.search import SearchResult
from benchmarks.environment import CHECKOUT
from benchmarks.paper.items import map_words, profile, registry
from benchmarks.paper.items.files import item_page
from benchmarks.paper.items.item import NotCommitted
from benchmarks.paper.items.tables import beyond
from benchmarks.paper.items.tables import map as map_item
from benchmarks.paper.map import bound, data, places, run
from benchmarks.paper.map.candidates import DEEPSPEED, NATIVE, candidates
from benchmarks.paper.map.data import MapData, MapPlan, MapSearch
from benchmarks.paper.map.degrees import PeerLayout
from benchmarks.paper.map.least_traffic import least_messages
from benchmarks.paper.map.places import Place
from benchmarks.paper.map.verdict import PeerStep, PlaceVerdict, timed_at, verdict_at
from sppo.config.sizes import GIB
from sppo.config.workload import Workload
from sppo.plan.weights import parameter_count
from tests.unit import docs_text

ANCHOR = Place(seq="1M", gpus=32)

SMALL, TOO_WIDE = Place(seq="32K", gpus=8), Place(seq="32K", gpus=4072)
"""A plan in a second, and one that no degrees fill."""


def test_places_are_within_the_map_and_none_comes_twice() -> None:
    every = places.planned()
    assert len(every) == len(set(every)) == len({place.name for place in every})
    assert max(place.gpus for place in every) == places.MOST_GPUS
    assert {place.seq for place in every} == set(places.LENGTHS)
    assert set(places.searched()) <= set(every)
    for place in places.on_the_map(places.HARDWARE[0]):
        assert places.tokens_per_gpu(place) in {f"{share}K" for share in places.TOKENS_PER_GPU}


def test_a_change_reaches_the_profile_or_the_workload() -> None:
    link, half, _, memory, *_ = places.changes_of(ANCHOR)
    assert link.profile.d2h_bytes_per_second == ANCHOR.profile.d2h_bytes_per_second + places.GB
    assert half.profile.h2d_bytes_per_second == ANCHOR.profile.h2d_bytes_per_second / 2
    assert memory.workload.device_memory_bytes == pytest.approx(77.65 * GIB, abs=9)
    network = replace(ANCHOR, changed="network", value=23.0)
    assert network.profile.internode_bytes_per_second == 23 * places.GB
    assert network.name == "1M, 32 GPUs, a100-80g, network 23 GB/s"
    assert network.unchanged == ANCHOR
    with pytest.raises(ValueError, match="needs a kind and a positive value"):
        Place(seq="1M", gpus=32, changed="network")


def test_the_least_messages_are_counted_ones() -> None:
    """PyTorch native, Ulysses 32: the emulation counts as many bytes of all-to-all, and more."""
    messages = {each.operation: each for each in least_messages(ANCHOR.workload, _ulysses())}
    assert messages["all_to_all"].sent_bytes == 66_571_993_088
    assert messages["all_gather"].sent_bytes <= 2 * 26_567_982_080
    assert {each.link for each in messages.values()} == {"between nodes"}
    ring = replace(_ulysses(), context_parallel=4)
    far = Place(seq="4M", gpus=128).workload
    (gather,) = (each for each in least_messages(far, ring) if each.group_ranks == 4)
    assert gather.group == "0-96 by 32"
    assert not any(each.group_ranks == 1 for each in least_messages(far, ring))


def _ulysses() -> PeerLayout:
    return PeerLayout(sequence_parallel=32)


def test_no_bound_is_above_an_emulated_step_of_the_map() -> None:
    made = data.committed()
    assert made.searches
    for search in made.searches:
        if search.found is None or search.found.simulated_time is None:
            continue
        place, time = search.place, search.found.simulated_time
        least = bound.bound_of(search.system, place.workload, place.profile)
        assert isinstance(least, bound.Bound), search.place.name
        assert least.seconds <= time.step_seconds
        assert least.seconds_if_hidden <= time.step_seconds_if_hidden


@pytest.mark.parametrize(
    ("place", "layout", "exposed", "hidden"),
    [
        (ANCHOR, "TP8 CP4 SP ZeRO-1, recompute 21 layers a stage", 237.9, 217.4),
        (ANCHOR, "TP32 SP, full recompute", 274.9, 233.9),
        (Place(seq="4M", gpus=128), "TP16 CP8 SP ZeRO-1, recompute 23 layers a", 917.2, 859.8),
    ],
)
def test_no_bound_is_above_megatron_s_emulated_steps(
    place: Place, layout: str, exposed: float, hidden: float
) -> None:
    page = (CHECKOUT / "docs/peers.md").read_text()
    (row,) = (line for line in page.splitlines() if layout in line)
    assert f"{exposed:,.1f} s | {hidden:,.1f} s" in row
    least = bound.bound_of("megatron", place.workload, place.profile)
    assert isinstance(least, bound.Bound)
    assert least.seconds <= exposed
    assert least.seconds_if_hidden <= hidden


def test_the_least_memory_is_state_inputs_and_seven_tensors_of_a_backward() -> None:
    """No logits: a loss can be tiled. The attention's output is counted among the saved ones."""
    workload = ANCHOR.workload
    tensor = workload.sequence_tokens // 32 * 4096 * 2
    hosted = bound.least_bytes("deepspeed", workload, _ulysses())
    state = bound.STATE_BYTES * parameter_count(workload.model) // 32
    assert hosted - state == 7 * tensor
    assert bound.least_bytes("native", workload, _ulysses()) - hosted == 32 * tensor


@pytest.mark.parametrize("system", places.PEERS)
def test_no_bound_is_below_the_kernels_and_less_memory_costs_time(system: str) -> None:
    limits = []
    for gib in (None, 60, 30, 20):
        memory = None if gib is None else gib * GIB
        workload = ANCHOR.workload.with_device_memory(memory)
        least = bound.bound_of(system, workload, ANCHOR.profile)
        if isinstance(least, bound.NoLayout):
            limits.append(float("inf"))
            continue
        share = profile.kernel_limit_share(workload, least.seconds_if_hidden, ANCHOR.profile)
        assert share <= 1
        limits.append(least.seconds)
    assert limits == sorted(limits)
    tight = bound.bound_of(system, ANCHOR.workload.with_device_memory(2 * GIB), ANCHOR.profile)
    assert isinstance(tight, bound.NoLayout)
    assert "memory" in tight.reason


def test_a_library_s_refusal_is_the_reason() -> None:
    refused = bound.bound_of("deepspeed", Place(seq="4M", gpus=128).workload, ANCHOR.profile)
    assert isinstance(refused, bound.NoLayout)
    assert "head count 32 is not divisible" in refused.reason


def a_plan(seconds: float | None, place: Place = ANCHOR) -> MapPlan:
    return MapPlan(
        place=place,
        status="infeasible" if seconds is None else "ok",
        reason="memory" if seconds is None else "",
        step_seconds=seconds,
        step_seconds_if_hidden=seconds,
        planning_seconds=1.0,
        commit="0" * 40,
    )


def peer(
    seconds: float | None,
    label: Any = "computed",
    floor: float | None = None,
    *,
    hidden: float | None = None,
    is_fastest: bool = False,
) -> PeerStep:
    return PeerStep(
        system="native",
        label=label,
        seconds=seconds,
        seconds_if_hidden=hidden or seconds,
        reason="" if seconds else "heads",
        is_fastest=is_fastest,
        floor=None if floor is None else peer(floor),
    )


E = "emulated"

FASTEST = peer(9.5, E, 9.0, is_fastest=True)


@pytest.mark.parametrize(
    ("plan", "peers", "winner", "words"),
    [
        (a_plan(10.0), [peer(None)], "SPPO alone", "SPPO alone"),
        (a_plan(10.0), [peer(11.0)], "SPPO", "≥ 1.10x {}, SPPO; hidden ≥ 1.10x"),
        (a_plan(10.0), [peer(11.0, hidden=9.7)], "open", "≥ 1.10x {}, open; hidden ≥ 0.97x"),
        (a_plan(10.0), [peer(9.0)], "open", "≥ 0.90x {}, open; hidden ≥ 0.90x"),
        (a_plan(10.0), [peer(9.0, E)], "a peer", "≤ 0.90x {}, peer; hidden ≤ 0.90x"),
        (a_plan(10.0), [peer(9.967, E)], "a peer", "≤ 0.997x {}, peer; hidden ≤ 0.997x"),
        (a_plan(10.0), [peer(11.0, E), peer(9.0)], "open", "≥ 0.90x {}, open; hidden ≥ 0.90x"),
        (a_plan(10.0), [peer(9.5, E), peer(9.0)], "a peer", "≤ 0.95x {}, peer; hidden ≤ 0.95x"),
        (a_plan(10.0), [peer(11.0, E, 9.0)], "open", "≥ 0.90x {}, open; hidden ≥ 0.90x"),
        (a_plan(10.0), [peer(12.0, E, 11.0)], "SPPO", "≥ 1.10x {}, SPPO; hidden ≥ 1.10x"),
        (a_plan(10.0), [peer(9.5, E, 9.0)], "a peer", "≤ 0.95x {}, peer; hidden ≤ 0.95x"),
        (a_plan(10.0), [FASTEST], "a peer", "0.95x {}, peer; hidden ≤ 0.95x"),
        (a_plan(10.0), [FASTEST, peer(9.2)], "a peer", "≤ 0.95x {}, peer; hidden ≤ 0.95x"),
        (a_plan(9.4), [FASTEST], "open", "1.01x {}, open; hidden ≥ 0.96x"),
        (a_plan(None), [peer(9.0)], "SPPO cannot", "SPPO cannot run"),
        (a_plan(None), [peer(None)], "nobody", "nobody"),
        (None, [peer(9.0)], "not planned", "not planned"),
    ],
)
def test_a_winner_needs_a_number(
    plan: MapPlan | None, peers: Sequence[PeerStep], winner: str, words: str
) -> None:
    verdict = PlaceVerdict(place=ANCHOR, plan=plan, peers=peers)
    assert verdict.winner == winner
    assert map_words.cell_words(verdict) == words.format("native")


def test_counts_of_a_search_are_timed_on_other_hardware_if_they_fit() -> None:
    made = data.committed()
    search = next(each for each in made.searches if each.found and each.place == ANCHOR)
    assert search.found is not None
    assert search.found.simulated_time is not None
    same = timed_at(search.found, ANCHOR)
    assert same is not None
    assert same.seconds == pytest.approx(search.found.simulated_time.step_seconds)
    fast = timed_at(search.found, replace(ANCHOR, hardware="h100-80g"))
    assert fast is not None
    assert fast.seconds is not None
    assert same.seconds is not None
    assert fast.seconds < same.seconds
    assert timed_at(search.found, replace(ANCHOR, changed="device memory", value=9.0)) is None


def test_a_place_without_a_search_has_a_bound_and_says_so() -> None:
    made = MapData(plans=[a_plan(1e6)])
    verdict = verdict_at(ANCHOR, made)
    assert {each.label for each in verdict.peers} == {"computed"}
    points = list(map_item._points(verdict))
    assert [point.label for point in points] == [*["simulated"] * 2, *["computed"] * 8]
    assert all(map_item.BOUND in point.source for point in points[2:8])
    bounds = ["bound of a step", "bound of a step, messages hidden"]
    assert [point.quantity for point in points[2:8]] == bounds * 3
    ratios = [("ratio of steps", "at least"), ("ratio of steps, messages hidden", "at least")]
    assert [(point.quantity, point.settings) for point in points[8:]] == ratios
    assert points[8].value == verdict.ratio


def test_a_cell_without_a_plan_is_named_and_counted() -> None:
    cells = map_item.verdicts(MapData(plans=[a_plan(1e6)]), [ANCHOR, SMALL])
    assert [map_words.cell_words(cell) for cell in cells][1] == "not planned"
    said = " ".join(map_words.notes(MapData(), cells, []))
    assert "Not planned yet: 1 of 2 cells, 0 of 0 rows of other links" in said
    assert "Megatron-Core is emulated nowhere in this map" in said
    assert "1 not planned" in map_words.verdict_words(cells, MapData())


def test_entries_replace_equal_ones_and_a_run_s_own_come_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    committed, own = tmp_path / "committed.json", tmp_path / "own.json"
    committed.write_bytes(data.store.to_json(MapData(plans=[a_plan(9.0), a_plan(8.0, SMALL)])))
    own.write_bytes(data.store.to_json(MapData(plans=[a_plan(7.0)])))
    monkeypatch.setattr(data, "committed_path", lambda: committed)
    merged = data.kept(own)
    assert {plan.place: plan.step_seconds for plan in merged.plans} == {ANCHOR: 7.0, SMALL: 8.0}
    assert data.read(tmp_path / "none.json") == MapData()


@pytest.mark.soak
def test_a_map_of_two_points_is_made_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    notes: list[str] = []
    asked: list[str] = []

    def search_grid(searcher: Any, **_: Any) -> SearchResult:
        asked.append(searcher.system)
        return searcher.result(None, None, None)  # type: ignore[no-any-return]

    monkeypatch.setattr(run, "search_grid", search_grid)
    path = tmp_path / data.FILE
    for _ in range(2):
        made = run.MapRun(
            path=path,
            data=data.read(path),
            emulator=Emulator(parent=tmp_path, time_limit_seconds=9.0),
            budget_seconds=9.0,
            note=notes.append,
        )
        made.plan([SMALL, TOO_WIDE])
        made.search([(SMALL, "native")])
    assert asked == ["native"]
    assert len(notes) == 4
    planned, refused = made.data.plan(SMALL), made.data.plan(TOO_WIDE)
    assert planned is not None
    assert refused is not None
    assert planned.step_seconds is not None
    assert planned.step_seconds_if_hidden is not None
    assert planned.step_seconds_if_hidden <= planned.step_seconds
    assert refused.status == "refused"
    assert "fills 3,968 of them at most" in refused.reason
    assert made.data.search(SMALL, "native") == data.read(path).searches[0]


@pytest.mark.parametrize("system", places.PEERS)
def test_the_few_settings_are_of_the_peer_s_grid_the_least_recomputed_first(system: str) -> None:
    points = candidates(system, ANCHOR.workload)
    names = [getattr(point, "checkpointing", "full") for point in points]
    orders = {"native": NATIVE, "deepspeed": DEEPSPEED, "megatron": ("full", "full")}
    assert tuple(names) == orders[system]
    grid = registry_of_systems.load(system).grid(ANCHOR.workload)
    assert set(points) <= set(grid)
    assert candidates("deepspeed", Place(seq="4M", gpus=128).workload) == []


def test_a_grid_without_an_answer_is_a_refusal_and_a_few_settings_are_not() -> None:
    entry = {"place": ANCHOR, "system": "native", "found": None, "trials": 3, "reason": "oom"}
    for how, label in (("grid", "emulated"), ("settings", "computed")):
        search = msgspec.convert(
            {**entry, "how": how, "search_seconds": 1.0, "commit": "0", "place": asdict(ANCHOR)},
            MapSearch,
        )
        made = MapData(plans=[a_plan(1e6)], searches=[search])
        (native,) = (each for each in verdict_at(ANCHOR, made).peers if each.system == "native")
        assert native.label == label
        assert (native.seconds is None) is (how == "grid")


@pytest.mark.parametrize("is_whole", [True, False])
def test_answers_of_committed_searches_are_emulated_anew_and_once(
    is_whole: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A whole search counts as one of the grid, any other as settings that fit."""
    committed = run.committed_choice("native", ANCHOR.workload)
    assert committed is not None
    assert committed.is_whole_search
    choice = replace(committed, is_whole_search=is_whole)
    monkeypatch.setattr(run, "committed_choice", lambda *_: choice)
    (found,) = (
        search.found
        for search in data.committed().searches
        if (search.place, search.system) == (ANCHOR, "native")
    )
    assert found is not None
    asked: list[Any] = []

    def emulate(_: Emulator, workload: Workload, system: str, settings: Any) -> Any:
        asked.append(msgspec.to_builtins(settings))
        return msgspec.structs.replace(found, settings=choice.settings)

    monkeypatch.setattr(Emulator, "emulate", emulate)
    made = run.MapRun(
        path=tmp_path / data.FILE,
        data=MapData(),
        emulator=Emulator(parent=tmp_path, time_limit_seconds=9.0),
        budget_seconds=9.0,
        note=lambda _: None,
    )
    for _ in range(2):
        made.take_committed([ANCHOR], "native")
    assert asked == [choice.settings]
    (entry,) = made.data.searches
    assert (entry.how, entry.is_whole) == (("grid", True) if is_whole else ("settings", False))
    assert entry.trials == choice.points
    words = map_words.how_words(entry)
    assert words.startswith("fastest of its grid" if is_whole else "the answer of a committed")


def test_the_command_makes_the_map_and_publishes_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "published.json"
    monkeypatch.setattr(places, "planned", lambda: [TOO_WIDE])
    monkeypatch.setattr(data, "own_path", lambda: target)
    flags = ["paper", "--map", "--plans-only", "--publish", "--json", "--output", str(tmp_path)]
    assert main(flags) == 0
    values = json.loads(capsys.readouterr().out)
    assert (values["plans"], values["searches"], values["unanswered"]) == (1, 0, 0)
    assert target.read_bytes() == (tmp_path / data.FILE).read_bytes()


def test_plans_made_again_leave_the_peers_searches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    known = data.committed().searches[:2]
    monkeypatch.setattr(places, "planned", lambda: [TOO_WIDE])
    monkeypatch.setattr(data, "kept", lambda path: data.MapData(searches=known))
    flags = ["paper", "--map", "--again", "--json", "--output", str(tmp_path)]
    assert main([*flags, "--plans-only"]) == 0
    values = json.loads(capsys.readouterr().out)
    assert (values["plans"], values["searches"]) == (1, 2)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--map", "--figures", "1"], "leave --figures out: the map makes data"),
        (["--map", "--models", "gpt-7b"], "leave --models out: the map has fixed places"),
        (["--map", "--map-budget", "0"], "give positive seconds"),
        (["--map", "--map-budget", "9"], "add --map-searches"),
        (["--map", "--map-searches", "--plans-only"], "leave one of them out"),
        (["--plans-only"], "add --map"),
        (["--map-searches"], "add --map"),
    ],
)
def test_wrong_flags_of_the_map_are_one_line(
    flags: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["paper", *flags]) == 2
    shown = capsys.readouterr().err
    assert words in shown
    assert shown.count("\n") == 1


@pytest.mark.parametrize("key", ["beyond", "map"])
def test_the_items_come_from_the_committed_data(key: str) -> None:
    item = registry.maker(key)()
    assert item.points
    assert all(point.source for point in item.points)
    shares = [each.kernel_limit_share for each in item.points if each.kernel_limit_share]
    assert max(shares) <= 1
    page = item_page(item)
    assert docs_text.wrong_commands(page) == []
    assert docs_text.wrong_flags(page) == []


def test_an_item_without_its_data_is_not_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data, "committed", MapData)
    for make in (beyond.make, map_item.make):
        with pytest.raises(NotCommitted, match="--map --publish"):
            make()


def test_one_more_unit_has_a_price_with_a_sign() -> None:
    base = a_plan(100.0)
    link, half, *_ = places.changes_of(ANCHOR)
    more = beyond.Priced(plan=a_plan(99.0, link), base=base)
    less = beyond.Priced(plan=a_plan(106.25, half), base=base)
    assert more.is_one_more
    assert not less.is_one_more
    assert more.saved_milliseconds == pytest.approx(1000)
    assert less.saved_milliseconds == pytest.approx(1000)
    assert beyond.Priced(plan=a_plan(None, link), base=base).saved_milliseconds is None
    slower = beyond.Priced(plan=a_plan(100.5, link), base=base)
    drawn = [point.value for point in beyond._price_points([more, slower])]
    assert drawn == pytest.approx([1.0, -0.5])


def test_searches_of_one_place_are_told_apart_by_system() -> None:
    made = MapData()
    for system in places.PEERS:
        made.add(
            MapSearch(
                place=ANCHOR,
                system=system,
                how="grid",
                found=None,
                trials=0,
                search_seconds=1.0,
                commit="0",
            )
        )
    assert [each.system for each in made.searches] == list(places.PEERS)
    assert made.search(ANCHOR, "megatron") is not None
