"""The least time that decisions add to a stage so that it fits its device: a relaxation. No torch.

At the turn, between the last forward and the first backward, all saved bytes of a sequence exist.
What the device has no room for is recomputed or in the host tier. Bytes leave at the least price
first: copies that hide, then recomputed tensors and exposed copies, as if tensors and layers could
be divided. So no decisions that fit add less. Prices are of the best rate, and temporaries the
least of any level of recomputation.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from sppo.config.errors import HOST_MEMORY, LayoutDoesNotFit
from sppo.memory_model.model_state import constant_bytes, fixed_bytes
from sppo.planner.activations.policies import recompute_levels
from sppo.planner.activations.stage_problem import StageProblem
from sppo.planner.search.recompute_prices import RecomputePrices, recompute_prices
from sppo.schedule.order import forward_order

GROUPS = 12
"""Groups of subsequences with like times, which are weighed together; a relaxation too."""


class LeastAdded(NamedTuple):
    """Added ns of one sequence, and the bytes that no decisions find room for."""

    ns: int
    device_short_bytes: int
    host_short_bytes: int = 0

    def require_fit(self, problem: StageProblem) -> None:
        """Raise LayoutDoesNotFit if bytes are short on the device or in the host tier."""
        if self.device_short_bytes:
            first = problem.shapes[0].layers[0]
            where = f"device memory on the stage that begins with layer {first}"
            raise LayoutDoesNotFit(self.device_short_bytes, where)
        if self.host_short_bytes:
            raise LayoutDoesNotFit(self.host_short_bytes, HOST_MEMORY)


class _Place(NamedTuple):
    """A subsequence in a chunk: its tokens times layers, and the ns that hide its copies."""

    weight: int
    forward_ns: float
    backward_ns: float


class _Share(NamedTuple):
    """Bytes that can leave the device at so many ns per byte."""

    price: float
    size_bytes: float


def least_added(problem: StageProblem) -> LeastAdded:
    """No decisions with which the stage fits add less time, or fit where bytes are short."""
    limit = problem.workload.device_memory_bytes
    if limit is None:
        return LeastAdded(0, 0)
    order = forward_order(problem.layout, problem.stage)
    layers = [len(shape.layers) for shape in problem.shapes]
    weights = [layers[place] * problem.lengths[index] for place, index in order]
    shape = problem.shapes[0]
    prices = recompute_prices(
        shape.model,
        problem.profile,
        shape.element_bytes,
        shards=shape.shards,
        ulysses=shape.ulysses,
        context=shape.context,
        shortest=min(problem.lengths),
        longest=max(problem.lengths),
    )
    room = limit - _base_bytes(problem, order[-1])
    excess = prices.saved * sum(weights[:-1]) - room
    if excess <= 0:
        return LeastAdded(0, 0)
    least = (prices.saved - sum(width for _, width in prices.tensors)) * sum(weights[:-1])
    if host_short := _host_short_bytes(problem, least - max(0, room)):
        return LeastAdded(0, 0, host_short)
    added = 0.0
    for share in sorted(_shares(problem, order, weights, prices)):
        taken = min(excess, share.size_bytes)
        added += taken * share.price
        excess -= taken
        if excess <= 0:
            break
    rounded = 2 * sum(1 + layers[place] for place, _ in order)  # nanoseconds are whole
    return LeastAdded(max(0, int(added) - rounded), max(0, int(excess)))


def _host_short_bytes(problem: StageProblem, leaving: float) -> int:
    """Bytes that the host tier lacks if so many of a sequence leave the device, at least."""
    host = problem.workload.host_memory_bytes
    if host is None:
        return 0
    arenas = problem.layout.kv_sets * leaving + problem.kv_host_bytes
    return max(0, int(arenas) - host)


def _base_bytes(problem: StageProblem, last: tuple[int, int]) -> int:
    """Device bytes at the turn that no decision takes away, and the last subsequence at its least.

    Messages are left out.
    """
    device = problem.workload.cluster.device
    fixed = fixed_bytes(problem.shapes, problem.layout, problem.stage, device)
    fixed += constant_bytes(problem.workload)
    least = min(
        problem.kept_bytes(*last, level) + max(problem.temporary_bytes(*last, level.recompute))
        for level in recompute_levels(problem)
    )
    return fixed + problem.untracked.charged + least


def _shares(
    problem: StageProblem,
    order: Sequence[tuple[int, int]],
    weights: Sequence[int],
    prices: RecomputePrices,
) -> Iterator[_Share]:
    """What can leave the device of all subsequences but the last, in parts of one price.

    The last of a chunk is never offloaded. Where copies overlap, that of the last forward but one
    is still under way at the turn.
    """
    final = problem.layout.subsequences - 1
    overlapped = problem.profile.overlapped_copies
    staying, leaving = 0, []
    for number, (_, index) in enumerate(order[:-1]):
        if index == final or (overlapped and number == len(order) - 2):
            staying += weights[number]
        else:
            leaving.append(number)
    for price, width in prices.tensors:
        yield _Share(price, width * staying)
    for members in _grouped(_places(problem, order, weights, prices, leaving)):
        weight = sum(place.weight for place in members)
        parts = [_Share(price, width * weight) for price, width in prices.tensors]
        room = prices.offloadable * weight
        forward_ns = sum(place.forward_ns for place in members)
        backward_ns = sum(place.backward_ns for place in members)
        parts += _copies(problem, room, forward_ns, backward_ns)
        yield from _cheapest(parts, room)


def _places(
    problem: StageProblem,
    order: Sequence[tuple[int, int]],
    weights: Sequence[int],
    prices: RecomputePrices,
    numbers: Sequence[int],
) -> list[_Place]:
    """Subsequences that may be offloaded; the next compute hides a copy, with its recomputation.

    Mixed sequences hide more, so all is hidden there.
    """
    base = [problem.base_ns(place) for place in range(len(problem.shapes))]
    mixed = problem.layout.kv_sets > 1
    places = []
    for number in numbers:
        place, index = order[number + 1]
        forward, backward = base[place]
        recomputed = prices.most_ns * weights[number + 1]
        hidden = (float("inf"),) * 2 if mixed else (forward[index], backward[index] + recomputed)
        if weights[number]:
            places.append(_Place(weights[number], *hidden))
    return places


def _grouped(places: list[_Place]) -> Iterator[list[_Place]]:
    """Groups of places with a like time to hide the copy of a token."""
    places.sort(key=lambda place: place.forward_ns / place.weight)
    size = -(-len(places) // GROUPS) or 1
    for first in range(0, len(places), size):
        yield places[first : first + size]


def _copies(
    problem: StageProblem, room: float, forward_ns: float, backward_ns: float
) -> Iterator[_Share]:
    """Bytes by price of their copies: hidden in both directions, exposed in one, in both."""
    d2h, h2d = (
        1e9 / rate
        for rate in (problem.profile.d2h_bytes_per_second, problem.profile.h2d_bytes_per_second)
    )
    if not problem.profile.overlapped_copies:
        yield _Share(d2h + h2d, room)
        return
    hidden = min((forward_ns / d2h, d2h), (backward_ns / h2d, h2d))
    first, second = sorted((min(room, forward_ns / d2h), min(room, backward_ns / h2d)))
    yield _Share(0.0, first)
    yield _Share(hidden[1], second - first)
    yield _Share(d2h + h2d, room - second)


def _cheapest(parts: list[_Share], room: float) -> Iterator[_Share]:
    """The cheapest parts up to `room` bytes: what is recomputed is not offloaded as well."""
    for part in sorted(parts):
        taken = min(room, part.size_bytes)
        room -= taken
        yield _Share(part.price, taken)
