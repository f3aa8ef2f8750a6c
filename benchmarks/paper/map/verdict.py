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
"""`open`: a peer's bound is below SPPO's step, and no emulation says whether it is reached."""


@dataclass(frozen=True, kw_only=True)
class PeerStep:
    """A peer's step at a place, or why there is none.

    label: "emulated" counts of its fastest settings that fit, or a "computed" bound, which no step
    of the peer is below. seconds: None where the peer cannot run; then `reason` says why.
    floor: the bound beside emulated settings that need not be the fastest.
    """

    system: str
    label: PeerLabel
    settings_text: str = ""
    seconds: float | None = None
    seconds_if_hidden: float | None = None
    reason: str = ""
    floor: PeerStep | None = None

    @property
    def least(self) -> PeerStep:
        """The step that no settings of the peer are below."""
        return self.floor or self


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
    def ratio_if_hidden(self) -> float | None:
        """The same peer's where no message takes time."""
        hidden = None if self.best_peer is None else self.best_peer.seconds_if_hidden
        if self.plan is None or not self.plan.step_seconds_if_hidden or not hidden:
            return None
        return hidden / self.plan.step_seconds_if_hidden

    @property
    def winner(self) -> Winner:
        """Who wins where messages are exposed, as far as the numbers say."""
        if self.plan is None:
            return "not planned"
        if self.plan.step_seconds is None:
            return "SPPO cannot" if self.running else "nobody"
        if not self.running:
            return "SPPO alone"
        if self._ahead:
            return "a peer"
        assert self.ratio is not None
        return "SPPO" if self.ratio > 1 else "open"


def verdict_at(place: Place, data: MapData) -> PlaceVerdict:
    """The verdict of what is made so far."""
    return PlaceVerdict(
        place=place,
        plan=data.plan(place),
        peers=[peer_step(system, place, data) for system in PEERS],
    )


def peer_step(system: str, place: Place, data: MapData) -> PeerStep:
    """The emulated step where the counts are there and fit, else the bound.

    Counts do not depend on rates: those of HARDWARE[0] stand for every place of the same length and
    GPUs whose memory is no smaller, in the settings that are fastest on HARDWARE[0].
    """
    source = Place(seq=place.seq, gpus=place.gpus, hardware=HARDWARE[0])
    search = data.search(source, system)
    if search is not None and search.found is not None:
        timed = timed_at(search.found, place)
        if timed is not None:
            is_best = is_whole(search) and place == source
            return timed if is_best else replace(timed, floor=bound_step(system, place))
    if search is not None and place == source and is_refused(search):
        return PeerStep(system=system, label="emulated", reason=search.reason)
    return bound_step(system, place)


def is_refused(search: MapSearch) -> bool:
    """Whether a whole grid was searched and nothing of it fits."""
    return is_whole(search) and search.found is None


def is_whole(search: MapSearch) -> bool:
    """Whether no settings of the grid can be faster than the answer."""
    return search.how == "grid" and not search.not_tried and not search.unanswered


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
