"""The plans that are proved: every policy, K and V in the host tier, and every way to spread."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from sppo.config.models import Model, gpt, llama
from sppo.plan.blocks.attention import RECOMPUTE_FULL, RECOMPUTE_LEAN, RECOMPUTE_MLP
from sppo.plan.plan import Plan
from tests.numerics.pipelines import make_plan

GPT = gpt("gpt-proof", layers=2, hidden=32, heads=4, vocabulary=64)
DEEP = gpt("gpt-proof-deep", layers=4, hidden=32, heads=4, vocabulary=64)
DEEPER = gpt("gpt-proof-deeper", layers=8, hidden=32, heads=4, vocabulary=64)
WIDE = gpt("gpt-proof-wide", layers=2, hidden=64, heads=8, vocabulary=64)
LLAMA = llama("llama-proof", layers=2, hidden=64, heads=8, kv_heads=4, ffn=96, vocabulary=64)


@dataclass(frozen=True, kw_only=True)
class Case:
    """A plan by hand (`make_plan`); `in_tox`: one of the few that every run of the tests proves.

    lengths: tokens of the subsequences. options: of `make_plan`.
    """

    name: str
    stages: int = 1
    shards: int = 1
    replicas: int = 1
    sequences: int = 1
    lengths: tuple[int, ...] = (32, 32, 24, 16)
    model: Model = GPT
    options: Mapping[str, Any] = field(default_factory=dict)
    in_tox: bool = False

    @property
    def ranks(self) -> int:
        return self.stages * self.shards * self.replicas

    def plan(self, element_bytes: int) -> Plan:
        """The plan in float64 (8) or bfloat16 (2)."""
        return make_plan(
            self.model,
            self.lengths,
            stages=self.stages,
            shards=self.shards,
            replicas=self.replicas,
            sequences=self.sequences,
            element_bytes=element_bytes,
            **self.options,
        )


OFFLOADED = {"share": 1.0}
HOSTED = {"kv_block_tokens": 20}
"""The last subsequence has five blocks of prefix: more than the ring has slots."""

MLP = {"recompute": RECOMPUTE_MLP}
LEAN = {"recompute": RECOMPUTE_LEAN}
FULL = {"recompute": RECOMPUTE_FULL}

CASES = (
    Case(name="kept"),
    Case(name="half offloaded", options={"share": 0.5}),
    Case(name="all offloaded", options=OFFLOADED, in_tox=True),
    Case(name="recomputed lean", options=LEAN),
    Case(name="recomputed in full", options=FULL, model=LLAMA),
    Case(name="K and V hosted", options=HOSTED, in_tox=True),
    Case(name="K and V hosted, offloaded", options={**HOSTED, **OFFLOADED}, model=LLAMA),
    Case(name="K and V hosted, recomputed", options={**HOSTED, **FULL}),
    Case(
        name="K and V hosted, offloaded, recomputed, three sequences",
        options={**HOSTED, **OFFLOADED, **LEAN},
        sequences=3,
        in_tox=True,
    ),
    Case(name="three sequences", sequences=3, options={"share": 0.5}),
    Case(name="PP 2", stages=2, options=OFFLOADED),
    Case(name="PP 2, fetched two ahead", stages=2, options={**OFFLOADED, "fetch_ahead": 2}),
    Case(name="PP 2, K and V hosted", stages=2, sequences=2, options={**HOSTED, **OFFLOADED}),
    Case(
        name="PP 4, mixed sequences",
        model=DEEP,
        stages=4,
        sequences=3,
        options={"share": 0.5, "mixed": True},
        in_tox=True,
    ),
    Case(
        name="PP 2, two chunks a stage",
        model=DEEP,
        stages=2,
        options={**OFFLOADED, "virtual_stages": 2, "group": 2},
        in_tox=True,
    ),
    Case(name="PP 2, MSP", stages=2, options={"msp": True, "share": 0.5}),
    Case(
        name="PP 4, MSP",
        stages=4,
        model=DEEP,
        options={"msp": True, **OFFLOADED, **LEAN},
        in_tox=True,
    ),
    Case(
        name="PP 3, MSP, K and V hosted, recomputed",
        stages=3,
        model=DEEP,
        options={"msp": True, **HOSTED, **FULL},
        in_tox=True,
    ),
    Case(
        name="PP 2, two chunks a stage, MSP, K and V hosted",
        model=DEEP,
        stages=2,
        sequences=2,
        options={"msp": True, **HOSTED, "share": 0.5, "virtual_stages": 2, "group": 2},
    ),
    Case(
        name="PP 8, MSP",
        stages=8,
        lengths=(32,) * 8,
        model=DEEPER,
        options={"msp": True, "share": 0.5},
    ),
    Case(name="SP 2", shards=2, options=OFFLOADED),
    Case(name="SP 4, K and V hosted", shards=4, model=LLAMA, options={**HOSTED, **LEAN}),
    Case(name="SP 8", shards=8, model=WIDE, options=FULL),
    Case(name="SP 2 (Ulysses 2)", shards=2, options={**OFFLOADED, "ulysses": 2}),
    Case(
        name="SP 4 (TP 2 x Ulysses 2), one subsequence",
        shards=4,
        lengths=(64,),
        options={**MLP, "ulysses": 2},
        in_tox=True,
    ),
    Case(
        name="SP 4 (TP 2 x Ulysses 2), K and V hosted",
        shards=4,
        model=LLAMA,
        options={**HOSTED, **LEAN, "ulysses": 2},
    ),
    Case(
        name="SP 4 (TP 2 x CP 2)",
        shards=4,
        options={**OFFLOADED, **LEAN, "context": 2},
        in_tox=True,
    ),
    Case(
        name="SP 4 (Ulysses 2 x CP 2), PP 2, full recomputation",
        shards=4,
        stages=2,
        model=LLAMA,
        options={**FULL, "ulysses": 2, "context": 2},
    ),
    Case(
        name="SP 2 (Ulysses 2) in two pieces",
        shards=2,
        options={**OFFLOADED, **LEAN, "ulysses": 2, "exchange_pieces": 2},
        in_tox=True,
    ),
    Case(
        name="SP 2 (Ulysses 2) in two pieces, one subsequence, K and V hosted",
        shards=2,
        model=LLAMA,
        lengths=(64,),
        options={**HOSTED, **MLP, "ulysses": 2, "exchange_pieces": 2},
    ),
    Case(
        name="SP 4 (Ulysses 2 x CP 2) in three pieces, one subsequence, sharded weights",
        shards=4,
        model=DEEP,
        lengths=(64,),
        options={"ulysses": 2, "context": 2, "sharded_weights": True, "exchange_pieces": 3},
    ),
    Case(
        name="SP 2 (Ulysses 2), sharded weights",
        shards=2,
        model=DEEP,
        options={**OFFLOADED, **LEAN, "ulysses": 2, "sharded_weights": True},
        in_tox=True,
    ),
    Case(
        name="SP 4 (Ulysses 2 x CP 2), PP 2, sharded weights, two chunks a stage",
        shards=4,
        stages=2,
        model=DEEP,
        options={"ulysses": 2, "context": 2, "virtual_stages": 2, "sharded_weights": True},
    ),
    Case(
        name="DP 2, sharded weights, K and V hosted",
        replicas=2,
        sequences=2,
        options={**HOSTED, "sharded_weights": True},
    ),
    Case(
        name="SP 4 (Ulysses 4), PP 2, MSP",
        shards=4,
        stages=2,
        options={"msp": True, "share": 0.5, "ulysses": 4},
    ),
    Case(name="one subsequence, K and V hosted", lengths=(64,), options={**HOSTED, **MLP}),
    Case(name="DP 2", replicas=2, sequences=2, options=OFFLOADED),
    Case(name="DP 4", replicas=4, sequences=4, options={**HOSTED, "share": 0.5}),
    Case(name="SP 2, PP 2", shards=2, stages=2, options={**LEAN, "share": 0.5}),
    Case(
        name="SP 2, PP 2, DP 2, K and V hosted",
        shards=2,
        stages=2,
        replicas=2,
        sequences=2,
        options={**HOSTED, **OFFLOADED},
        in_tox=True,
    ),
    Case(
        name="SP 2, PP 2, DP 2, MSP",
        shards=2,
        stages=2,
        replicas=2,
        sequences=2,
        model=LLAMA,
        options={"msp": True, "share": 0.5},
    ),
    Case(
        name="SP 2, PP 4, MSP", shards=2, stages=4, model=DEEP, options={"msp": True, **OFFLOADED}
    ),
)

BY_NAME = {case.name: case for case in CASES}
