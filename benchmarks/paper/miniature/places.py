"""What is measured of each figure: its places, from one small workload on CPU ranks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from benchmarks.launch.options import Options
from benchmarks.rows.row import slug
from sppo.config.sizes import length_name, limit_words
from sppo.config.workload import Workload

SHORTEST_TOKENS = 64
"""Fig. 7: the shortest subsequence."""

LENGTHS = (1, 2, 3)
"""Fig. 10: sequence lengths, in multiples of the workload's own."""

RANKS = (1, 2, 4)
"""Fig. 12: numbers of ranks. Four may share two cores: no times are taken."""

AT_MOST_FACTOR = 4
"""Fig. 12: a search ends at this multiple of the workload's own length."""

MOST_SETTINGS = 2
"""Fig. 12: settings of a tuned row that are searched, those of least memory first."""

FURTHER = 1.2
"""Of a place's expected seconds: within so many its unsettled rows are launched further."""

LAST_LENGTH_LAUNCHES = 1
"""Fig. 10: launches at the last length, which shows who still fits."""


@dataclass(frozen=True, kw_only=True)
class Place:
    """One place of a figure's axis.

    workload: what is trained there. base: the workload of which it is a variation. seconds: of the
    place with tiny-cpu, three launches and three measured steps, on two quiet cores; expected, not
    measured. launches: at most so many of each row; None: as many as the command asks for.
    """

    figure: str
    name: str
    workload: Workload
    base: Workload
    seconds: float
    launches: int | None = None

    @property
    def folder(self) -> str:
        """ "fig10-8192"."""
        return slug(f"fig{self.figure} {self.name}".replace(",", ""))

    def options(self, options: Options) -> Options:
        """The launches of this place, and the seconds within which it may launch further."""
        launches = min(options.launches, self.launches or options.launches)
        return replace(options, launches=launches, budget_seconds=FURTHER * self.seconds)


def places_of(figure: str, base: Workload) -> list[Place]:
    """The places of a figure, in the order in which they are measured."""
    return list(_PLACES[figure](base))


def counts(workload: Workload) -> list[int]:
    """Fig. 7: the values of N, from 1 on, each twice the one before."""
    most = workload.sequence_tokens // SHORTEST_TOKENS
    return [2**power for power in range(most.bit_length())]


def _by_subsequence(base: Workload) -> Iterator[Place]:
    """One place: all N run next to each other, without a limit."""
    yield Place(
        figure="7",
        name=f"{length_name(base.sequence_tokens)} tokens",
        workload=base.with_device_memory(None),
        base=base,
        seconds=420.0,
    )


def _by_length(base: Workload) -> Iterator[Place]:
    for factor, seconds in zip(LENGTHS, (370.0, 660.0, 470.0), strict=True):
        workload = replace(base, sequence_tokens=factor * base.sequence_tokens)
        yield Place(
            figure="10",
            name=length_name(workload.sequence_tokens),
            workload=workload,
            base=base,
            seconds=seconds,
            launches=LAST_LENGTH_LAUNCHES if factor == LENGTHS[-1] else None,
        )


def _by_limit(base: Workload) -> Iterator[Place]:
    for limit, seconds in ((base.device_memory_bytes, 370.0), (None, 405.0)):
        yield Place(
            figure="11",
            name=limit_words(limit),
            workload=base.with_device_memory(limit),
            base=base,
            seconds=seconds,
        )


def _by_ranks(base: Workload) -> Iterator[Place]:
    for ranks, seconds in zip(RANKS, (270.0, 270.0, 480.0), strict=True):
        words = f"{ranks} rank{'s' if ranks > 1 else ''}"
        same = ranks == base.cluster.ranks
        cluster = replace(base.cluster, nodes=1, ranks_per_node=ranks)
        yield Place(
            figure="12",
            name=words,
            workload=replace(
                base, name=base.name if same else f"{base.name}-{slug(words)}", cluster=cluster
            ),
            base=base,
            seconds=seconds,
        )


_PLACES: dict[str, Callable[[Workload], Iterator[Place]]] = {
    "7": _by_subsequence,
    "10": _by_length,
    "11": _by_limit,
    "12": _by_ranks,
}
