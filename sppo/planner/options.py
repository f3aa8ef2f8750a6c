"""The options of the solver: whatever the user fixes of a plan."""

from __future__ import annotations

from dataclasses import dataclass

from sppo.planner.activations.policies import POLICIES

CUTS = ("flops", "equal", "time")

SOLVERS = ("heuristic", "exact", "paper")

STAGE_SHARDINGS = ("tensor", "ulysses", "auto")

WEIGHTS = ("whole", "sharded", "auto")

MOST_PIECES = 64
"""Of one subsequence around attention: more would be kernels of a few tokens."""


@dataclass(frozen=True, kw_only=True)
class SolverOptions:
    """Fixed choices; None leaves a choice to the solver. Raises ValueError for unknown names.

    policy: see `policies.POLICIES`. cut: "flops" (the paper's), "equal" or "time"; "auto" is
    "flops" in a pipeline and "equal" on a single stage. longest_tokens: cap on the lengths of
    "flops". kv_offload: K, V and their gradients in the host tier; None: if that is faster or
    nothing else fits. head_alone: the head as a chunk of its own on the first stage; None: if a
    stage has several chunks and one rank. msp: multiplexed sequence partitioning at the pipeline's
    ends; None: if it is faster. stage_sharding: the ranks of a stage divide weights alone
    ("tensor"), or some have the same weights and exchange tokens for heads ("ulysses"); "auto": the
    faster. ulysses_parallel: how many ranks of a stage have the same weights. context_parallel: how
    many also have the same heads; None: one, or as few as leave heads for all others. weights:
    ranks with the same weights keep all of them ("whole"), or a piece of every block, which they
    gather when it is used ("sharded"); "auto": the faster. exchange_pieces: pieces of a subsequence
    that pass the all-to-alls around attention one after another; None: one or two, the faster.
    """

    pipeline_parallel: int | None = None
    sequence_parallel: int | None = None
    data_parallel: int | None = None
    stage_sharding: str = "auto"
    ulysses_parallel: int | None = None
    context_parallel: int | None = None
    weights: str = "auto"
    exchange_pieces: int | None = None
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
            ("stage_sharding", self.stage_sharding, STAGE_SHARDINGS),
            ("weights", self.weights, WEIGHTS),
        ):
            if value not in known:
                raise ValueError(f"unknown {name} {value!r}: take one of {', '.join(known)}")
        if self.solver == "paper" and (
            self.stage_sharding == "ulysses"
            or (self.ulysses_parallel or 1) > 1
            or (self.context_parallel or 1) > 1
            or self.weights == "sharded"
        ):
            raise ValueError(
                "the paper solver divides weights, without Ulysses, context parallelism or sharded "
                "weights: take the heuristic solver"
            )
        if self.exchange_pieces is not None and not 1 <= self.exchange_pieces <= MOST_PIECES:
            raise ValueError(
                f"exchange_pieces {self.exchange_pieces}: it must be between 1 and {MOST_PIECES}"
            )
        if self.kv_offload and (self.context_parallel or 1) > 1:
            raise ValueError(
                "context parallelism keeps K and V on the device: leave --kv-offload or "
                "--context-parallel out"
            )
        if self.msp and (self.context_parallel or 1) > 1:
            raise ValueError(
                "no MSP with context parallelism: helpers gather no K and V; leave --msp or "
                "--context-parallel out"
            )
        if self.msp and self.weights == "sharded":
            raise ValueError(
                "no MSP with sharded weights: helpers get whole blocks; leave --msp or --weights "
                "out"
            )
        if self.solver == "exact" and self.policy != "auto":
            raise ValueError(
                f"the exact solver decides on every tensor: it has no policy {self.policy!r}; "
                "take --policy auto, or the heuristic solver"
            )
        if self.solver != "heuristic" and self.msp:
            raise ValueError(
                f"the {self.solver} solver plans without MSP: leave --msp out, or take the "
                "heuristic solver"
            )

    def cut_of(self, stages: int) -> str:
        """The kind of cut for so many pipeline stages."""
        if self.cut != "auto":
            return self.cut
        return "flops" if stages > 1 else "equal"
