"""The bars of fig. 11: the ablation's variants, and what-ifs that change the links or the rates."""

from __future__ import annotations

from dataclasses import dataclass, replace

from benchmarks.paper.items.profile import FULL_RATE_TOKENS, full_rates, testbed
from benchmarks.paper.items.sppo_steps import paper_layout
from benchmarks.paper.offload_ablation import (
    ADAPTIVE,
    FULL,
    HOSTED,
    MSP,
    SPACIOUS_MSP,
    Variant,
    VariantResult,
    variant_result,
)
from benchmarks.paper.reported import ReportedPoint
from sppo.config.hardware import Hardware
from sppo.plan.layout import Degrees

GB = 10**9


@dataclass(frozen=True, kw_only=True)
class Bar:
    """One bar: a variant on a profile with changed links.

    host_link, node_link: GB/s; None for the profile's. full_rates: no slow short kernels.
    """

    name: str
    variant: Variant
    host_link: float | None = None
    node_link: float | None = None
    full_rates: bool = False

    def profile(self) -> Hardware:
        """The testbed with these links."""
        profile = testbed()
        if self.host_link is not None:
            rate = self.host_link * GB
            profile = replace(profile, d2h_bytes_per_second=rate, h2d_bytes_per_second=rate)
        if self.node_link is not None:
            profile = replace(profile, internode_bytes_per_second=self.node_link * GB)
        return full_rates(profile) if self.full_rates else profile


FULL_BAR = Bar(name="full offload", variant=FULL)
ADAPTIVE_BAR = Bar(name="adaptive offload", variant=ADAPTIVE)
MSP_BAR = Bar(name="+ MSP", variant=MSP)

HOSTED_BAR = Bar(name="full offload, K and V travel too", variant=HOSTED)
SLOW_FULL_BAR = Bar(name="full offload, host link 1 GB/s", variant=FULL, host_link=1.0)
SLOW_ADAPTIVE_BAR = Bar(name="adaptive offload, host link 1 GB/s", variant=ADAPTIVE, host_link=1.0)
SPARE_BAR = Bar(name="+ MSP, spare memory", variant=SPACIOUS_MSP)
FAST = "node link 50 GB/s, no slow short kernels"
FAST_ADAPTIVE_BAR = Bar(
    name=f"adaptive offload, {FAST}", variant=ADAPTIVE, node_link=50.0, full_rates=True
)
FAST_SPARE_BAR = Bar(
    name=f"+ MSP, spare memory, {FAST}", variant=SPACIOUS_MSP, node_link=50.0, full_rates=True
)

BARS = (
    FULL_BAR,
    ADAPTIVE_BAR,
    MSP_BAR,
    HOSTED_BAR,
    SLOW_FULL_BAR,
    SLOW_ADAPTIVE_BAR,
    SPARE_BAR,
    FAST_ADAPTIVE_BAR,
    FAST_SPARE_BAR,
)

RATIOS = (
    ("adaptive over full", ADAPTIVE_BAR, FULL_BAR),
    ("what if: K and V travel in full offload", ADAPTIVE_BAR, HOSTED_BAR),
    ("what if: host link 1 GB/s", SLOW_ADAPTIVE_BAR, SLOW_FULL_BAR),
    ("MSP over adaptive", MSP_BAR, ADAPTIVE_BAR),
    ("what if: spare memory", SPARE_BAR, ADAPTIVE_BAR),
    (f"what if: spare memory, {FAST}", FAST_SPARE_BAR, FAST_ADAPTIVE_BAR),
)
"""Name, the bar that is faster in the paper, and the slower one; what-ifs behind each step."""

ADAPTIVE_STEP, MSP_STEP = RATIOS[0][0], RATIOS[3][0]

Steps = dict[str, VariantResult]
"""The simulated step of each bar, by its name."""


def steps_of(place: ReportedPoint) -> Steps:
    """The simulated step of every bar at one point."""
    workload = place.workload()
    degrees = Degrees(place.sequence_parallel, place.pipeline_parallel, 1)
    return {
        bar.name: variant_result(
            bar.variant, paper_layout(workload, degrees, place.subsequences, bar.profile())
        )
        for bar in BARS
    }


def changed_rates(bar: Bar) -> list[str]:
    """What a bar changes of the profile, in words."""
    words = []
    if bar.host_link is not None:
        words.append(f"host link {bar.host_link:g} GB/s")
    if bar.node_link is not None:
        words.append(f"node link {bar.node_link:g} GB/s")
    if bar.full_rates:
        words.append(f"rates of {FULL_RATE_TOKENS:,} tokens a GPU at every length")
    return words
