"""What the user fixes of a plan, and the layouts that this leaves."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from sppo.config.hardware import Profile
from sppo.config.workload import Workload
from sppo.memory_model.model_state import block_tokens
from sppo.planner.activations.policies import POLICIES
from sppo.planner.layouts.candidates import CUTS, GROUP_STAGES, cuts, even_group, interleavings
from sppo.planner.layouts.degrees import every_degree
from sppo.planner.layouts.timed_layout import Layout

SOLVERS = ("heuristic", "exact", "paper")


@dataclass(frozen=True, kw_only=True)
class SolverOptions:
    """What the user fixes; None leaves it to the solver. Policies: see `policies.POLICIES`.

    cut: "flops" (the paper's), "equal" or "time"; "auto" is "flops" where pipeline stages wait
    for each other and "equal" on a single stage. longest_tokens caps the lengths of "flops".
    kv_offload: K, V and their gradients in the host tier or not; None: where nothing else fits.
    head_alone: the head as a part of its own on the first stage, which waits anyway when its turn
    comes; None: where a stage has several parts and is one rank.
    msp: multiplexed sequence partitioning at the pipeline's ends; None: where it is faster.
    """

    pipeline_parallel: int | None = None
    sequence_parallel: int | None = None
    data_parallel: int | None = None
    subsequences: int | None = None
    virtual_stages: int | None = None
    group_subsequences: int | None = None
    policy: str = "auto"
    cut: str = "auto"
    longest_tokens: int | None = None
    kv_offload: bool | None = None
    head_alone: bool | None = None
    msp: bool | None = None
    solver: str = "heuristic"

    def __post_init__(self) -> None:
        for name, value, known in (
            ("policy", self.policy, POLICIES),
            ("cut", self.cut, ("auto", *CUTS)),
            ("solver", self.solver, SOLVERS),
        ):
            if value not in known:
                raise ValueError(f"unknown {name} {value!r}: take one of {', '.join(known)}")
        if self.solver == "exact" and self.policy != "auto":
            raise ValueError(
                f"the exact solver decides every tensor's fate: it has no policy {self.policy!r}; "
                "take --policy auto, or the heuristic solver"
            )
        if self.solver != "heuristic" and self.msp:
            raise ValueError(
                f"the {self.solver} solver plans without MSP: leave --msp out, or take the "
                "heuristic solver"
            )

    def cut_of(self, stages: int) -> str:
        """The cut for so many pipeline stages."""
        if self.cut != "auto":
            return self.cut
        return "flops" if stages > 1 else "equal"


def every_layout(workload: Workload, profile: Profile, options: SolverOptions) -> Iterator[Layout]:
    """The layouts that the options leave, each with every cut worth a try."""
    allowed = every_degree(
        workload, options.sequence_parallel, options.pipeline_parallel, options.data_parallel
    )
    if options.msp:  # a single stage has no neighbour, but may be all there is
        allowed = [one for one in allowed if one[1] > 1] or allowed
    for shards, stages, replicas in allowed:
        sequences = workload.sequences_per_step // replicas
        kv_block_tokens = 0
        if options.kv_offload:
            kv_block_tokens = block_tokens(workload, shards)
        for virtual_stages in interleavings(workload.model.layers, stages, options.virtual_stages):
            for lengths in cuts(
                workload,
                profile,
                shards,
                options.subsequences,
                options.cut_of(stages),
                options.longest_tokens,
            ):
                group = options.group_subsequences
                yield Layout(
                    workload=workload,
                    profile=profile,
                    sequence_parallel=shards,
                    pipeline_parallel=stages,
                    data_parallel=replicas,
                    virtual_stages=virtual_stages,
                    group_subsequences=group or even_group(len(lengths), GROUP_STAGES * stages),
                    lengths=lengths,
                    kv_block_tokens=kv_block_tokens,
                    kv_sets=2 if _mixes(sequences, stages, virtual_stages) else 1,
                    head_alone=_parts_the_head(options, shards, stages, virtual_stages),
                )


def _parts_the_head(options: SolverOptions, shards: int, stages: int, virtual_stages: int) -> bool:
    """Whether the head is a part of its own: only interleaved stages give it time to come back."""
    possible = stages > 1 and virtual_stages > 1
    if options.head_alone and not possible:
        raise ValueError(
            "the head can be a part of its own only where a stage has several parts: take "
            "--virtual-stages 2 or more, or leave the head to the solver"
        )
    if options.head_alone is None:
        return possible and shards == 1  # sharded, the first stage has no room for both ends
    return options.head_alone


def _mixes(sequences: int, stages: int, virtual_stages: int) -> bool:
    """Whether the sequences of a step are mixed in the pipeline: not between interleaved parts."""
    return sequences > 1 and stages > 1 and virtual_stages == 1
