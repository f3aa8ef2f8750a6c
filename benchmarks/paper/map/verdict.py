"""Who wins at a place: SPPO's simulated step beside the peers' emulated steps or their bounds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from benchmarks.emulation.result import Emulation, verdict
from benchmarks.emulation.time.step_time import simulated_time
from benchmarks.paper.map.bound import NoLayout, bound_of
from benchmarks.paper.map.data import MapData, MapPlan, MapSearch
from benchmarks.paper.map.places import HARDWARE, PEERS, Place

PeerLabel = Literal["emulated", "computed"]

Winner = Literal["SPPO alone", "SPPO", "a peer", "SPPO cannot", "open", "nobody", "not planned"]
"""SPPO: its exposed step is below every peer's bound, messages hidden. open: no such bound, and no
emulated peer is faster."""

Side = Literal["", "≤ ", "≥ "]
"""Of a ratio: exact, the most that it can be, or the least."""


@dataclass(frozen=True, kw_only=True)
class PeerStep:
    """A peer's step at a place, or why there is none.

    label: "emulated" counts of settings that fit, or a "computed" bound. seconds: None where the
    peer cannot run; then `reason` says why. is_fastest: no settings of the peer's grid have a
    shorter exposed step. floor: the bound beside an emulated step.
    """

    system: str
    label: PeerLabel
    settings_text: str = ""
    seconds: float | None = None
    seconds_if_hidden: float | None = None
    reason: str = ""
    is_fastest: bool = False
    floor: PeerStep | None = None

    @property
    def least(self) -> PeerStep:
        """The exposed step that no settings of the peer are below."""
        return self if self.is_fastest else self.floor or self

    @property
    def least_if_hidden(self) -> float:
        """Seconds that no settings of the peer are below where messages take no time."""
        seconds = (self.floor or self).seconds_if_hidden
        assert seconds is not None, "the peer runs"
        return seconds


@dataclass(frozen=True, kw_only=True)
class PlaceVerdict:
    """SPPO and its peers at one place."""

    place: Place
    plan: MapPlan | None
    peers: Sequence[PeerStep]

    @property
    def running(self) -> list[PeerStep]:
        """The peers that may run, the fastest first."""
        able = [peer for peer in self.peers if peer.seconds is not None]
        return sorted(able, key=lambda peer: peer.seconds or 0.0)

    @property
    def best_peer(self) -> PeerStep | None:
        """The step to name: the fastest emulated one below SPPO's, else the least that may be."""
        least = sorted((peer.least for peer in self.running), key=lambda peer: peer.seconds or 0.0)
        return next(iter((*self._ahead, *least)), None)

    @property
    def _ahead(self) -> list[PeerStep]:
        """Emulated peers that are faster than SPPO."""
        step = None if self.plan is None else self.plan.step_seconds
        emulated = [peer for peer in self.running if peer.label == "emulated"]
        return [peer for peer in emulated if step and (peer.seconds or step) < step]

    @property
    def ratio(self) -> float | None:
        """The named peer's step or bound over SPPO's, exposed: above 1 SPPO is faster."""
        if self.plan is None or self.plan.step_seconds is None or self.best_peer is None:
            return None
        assert self.best_peer.seconds is not None
        return self.best_peer.seconds / self.plan.step_seconds

    @property
    def side(self) -> Side:
        """Whether the true ratio may be less or more than `ratio`.

        Exact where the named peer's grid was searched and no other peer can be faster.
        """
        best = self.best_peer
        if best is None:
            return ""
        floors = [peer.least.seconds or 0.0 for peer in self.running]
        if best.is_fastest and best.seconds == min(floors):
            return ""
        return "≤ " if self._ahead else "≥ "

    @property
    def ratio_if_hidden(self) -> float | None:
        """The same where no message takes time: at most so where a peer is ahead, else at least."""
        if self.plan is None or not self.plan.step_seconds_if_hidden or not self.running:
            return None
        hidden = [peer.seconds_if_hidden for peer in self._ahead if peer.seconds_if_hidden]
        least = min(hidden or (peer.least_if_hidden for peer in self.running))
        return least / self.plan.step_seconds_if_hidden

    @property
    def side_if_hidden(self) -> Side:
        """Of `ratio_if_hidden`; a search for the least exposed step does not make it exact."""
        if self.ratio_if_hidden is None:
            return ""
        return "≤ " if self._ahead else "≥ "

    @property
    def winner(self) -> Winner:
        """Who wins, as far as the numbers say: SPPO exposed against the peers hidden."""
        if self.plan is None:
            return "not planned"
        if self.plan.step_seconds is None:
            return "SPPO cannot" if self.running else "nobody"
        if not self.running:
            return "SPPO alone"
        if self._ahead:
            return "a peer"
        least = min(peer.least_if_hidden for peer in self.running)
        return "SPPO" if self.plan.step_seconds < least else "open"


def verdict_at(place: Place, data: MapData) -> PlaceVerdict:
    """The verdict of what is made so far; without peers where SPPO has no entry."""
    plan = data.plan(place)
    peers = [] if plan is None else [peer_step(system, place, data) for system in PEERS]
    return PlaceVerdict(place=place, plan=plan, peers=peers)


def peer_step(system: str, place: Place, data: MapData) -> PeerStep:
    """The emulated step where the counts are there and fit, else the bound.

    Counts do not depend on rates: those of HARDWARE[0] stand for every place of the same length and
    GPUs where they fit. The settings are those of HARDWARE[0], so they need not be the fastest.
    """
    source = Place(seq=place.seq, gpus=place.gpus, hardware=HARDWARE[0])
    search = data.search(source, system)
    if search is not None and search.found is not None:
        timed = timed_at(search.found, place)
        if timed is not None:
            is_fastest = search.is_whole and place == source
            return replace(timed, is_fastest=is_fastest, floor=bound_step(system, place))
    if search is not None and place == source and is_refused(search):
        return PeerStep(system=system, label="emulated", reason=search.reason)
    return bound_step(system, place)


def is_refused(search: MapSearch) -> bool:
    """Whether a whole grid was searched and nothing of it fits."""
    return search.is_whole and search.found is None


def timed_at(found: Emulation, place: Place) -> PeerStep | None:
    """The counts of an emulation, timed by the profile of a place; None where they do not fit."""
    workload = place.workload
    time = simulated_time(found.system, found.settings, workload, place.profile, found.roles)
    if time is None or not verdict(found.roles, workload)["fits"]:
        return None
    return PeerStep(
        system=found.system,
        label="emulated",
        settings_text=found.settings_text,
        seconds=time.step_seconds,
        seconds_if_hidden=time.step_seconds_if_hidden,
    )


def bound_step(system: str, place: Place) -> PeerStep:
    """The lower bound of a peer."""
    bound = bound_of(system, place.workload, place.profile)
    if isinstance(bound, NoLayout):
        return PeerStep(system=system, label="computed", reason=bound.reason)
    return PeerStep(
        system=system,
        label="computed",
        settings_text=f"bound of {bound.degrees}",
        seconds=bound.seconds,
        seconds_if_hidden=bound.seconds_if_hidden,
    )
