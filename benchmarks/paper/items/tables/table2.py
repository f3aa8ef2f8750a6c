"""Table 2: model state, activations and least GPUs of a 4M sequence, by our memory model."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.paper import reported
from benchmarks.paper.items import drawing
from benchmarks.paper.items.item import Comparison, Item, Point, Table, largest_difference
from benchmarks.paper.items.profile import testbed
from sppo.config.models import MODELS, Model
from sppo.config.sizes import GIB, parse_tokens
from sppo.memory_model.model_state import state_bytes
from sppo.plan.parts import PartShape

LENGTH = "4M"

GB = 10**9

BYTES_PER_PARAMETER = 18
"""bfloat16 weight, float32 gradient, float32 moments and master of AdamW."""

PAPERS_GPU_BYTES = 80 * GB
"""The bytes by which the paper's own numbers of GPUs follow from its sizes."""

STATE, ACTIVATIONS, GPUS = "model state", "activations at 4M", "least GPUs at 4M"

OURS, PAPERS = "memory model", "the paper"

_SOURCE = "sppo/memory_model, sppo/plan"


@dataclass(frozen=True, kw_only=True)
class Need:
    """What one model needs without offload: bytes of all GPUs together, and the least GPUs."""

    model: Model
    state_bytes: int
    activation_bytes: int
    gpus: int

    @property
    def hidden_bytes(self) -> float:
        """Activation bytes of a token and layer, in units of the hidden size."""
        return self.activation_bytes / token_layers(self.model) / self.model.hidden


def token_layers(model: Model) -> int:
    """Tokens of the sequence times layers."""
    return parse_tokens(LENGTH) * model.layers


def need_of(model: Model) -> Need:
    """bfloat16 weights, float32 gradients, AdamW with float32 masters; saved tensors, K and V."""
    tokens = parse_tokens(LENGTH)
    shape = PartShape(model=model, layers=range(model.layers), head=True, element_bytes=2)
    state = sum(state_bytes([shape]))
    activations = shape.kept_bytes(tokens) + shape.kv_bytes(tokens, 2)
    gpus = math.ceil((state + activations) / testbed().usable_device_bytes)
    return Need(model=model, state_bytes=state, activation_bytes=activations, gpus=gpus)


def make() -> Item:
    """The item. Raises OSError."""
    papers = reported.numbers("models")
    needs = [need_of(MODELS[name]) for name in papers]
    comparisons = [each for need in needs for each in _comparisons(need, papers[need.model.name])]
    sizes = [row for row in comparisons if GPUS not in row.what]
    near = [row for row in sizes if abs(row.difference or 0) <= 0.05]
    largest = largest_difference(near) or 0.0
    return Item(
        key="table2",
        title="Table 2: memory of a 4M sequence without offload",
        compares="model state, activation bytes and least GPUs at 4M tokens, three models",
        points=[point for row in comparisons for point in _points(row)],
        comparisons=comparisons,
        agreement=f"{len(near)} of {len(sizes)} sizes within {abs(largest):.1%}",
        verdict=_verdict(sizes, near, needs, papers),
        notes=[
            "The paper prints GB. Its activations are powers of two only as GiB. Its model state "
            "is near ours only as GB. Each is compared in that "
            "unit. Least GPUs that follow from the paper's sizes are given in both readings.",
            "Least GPUs here: model state and activations over the usable memory of a GPU, "
            f"{testbed().usable_device_bytes / GIB:.2f} GiB, rounded up. A real layout needs more.",
            "With offload SPPO fits gpt-7b at 4M on 128 GPUs "
            "(`results/published/emulation/gpt-7b-4m-128xa100-sppo.json`, emulated).",
        ],
        tables=[_table(needs, papers)],
        draw=lambda figure: _draw(figure, comparisons),
        inches=(11.0, 4.2),
        drawn_source="computed (memory model) · beside the paper's table 2",
    )


def _verdict(
    sizes: Sequence[Comparison],
    near: Sequence[Comparison],
    needs: Sequence[Need],
    papers: dict[str, Any],
) -> str:
    far = [f"{row.what} ({row.difference:+.0%})" for row in sizes if row not in near]
    unlike = [
        need.model.name
        for need in needs
        if all(
            abs(papers[need.model.name]["min_a100_80g_at_4m"] - gpus) > 1
            for gpus in _following_gpus(papers[need.model.name]).values()
        )
    ]
    return (
        f"Sizes that differ by more than 5 %: {', '.join(far) or 'none'}. The paper's least GPUs "
        f"do not follow from its sizes for {', '.join(unlike) or 'no model'}."
    )


def _following_gpus(paper: dict[str, Any]) -> dict[str, int]:
    """The GPUs that the paper's sizes need, with its activations as GB and as GiB."""
    return {
        unit: math.ceil(
            (paper["model_state_gb"] * GB + paper["activation_gb_at_4m"] * size) / PAPERS_GPU_BYTES
        )
        for unit, size in (("GB", GB), ("GiB", GIB))
    }


def _comparisons(need: Need, paper: dict[str, Any]) -> Iterator[Comparison]:
    name = need.model.name
    printed = need.activation_bytes / need.hidden_bytes  # of one byte a hidden unit
    units = paper["activation_gb_at_4m"] * GIB / printed
    follows = _following_gpus(paper)
    parameters = need.state_bytes / BYTES_PER_PARAMETER
    yield Comparison(
        what=f"{name}: {STATE}",
        ours=need.state_bytes / GB,
        ours_label="computed",
        paper=paper["model_state_gb"],
        form="{:,.0f} GB",
        cause=(
            f"{BYTES_PER_PARAMETER} bytes a parameter here, "
            f"{paper['model_state_gb'] * GB / parameters:.1f} in the paper"
        ),
    )
    yield Comparison(
        what=f"{name}: {ACTIVATIONS}",
        ours=need.activation_bytes / GIB,
        ours_label="computed",
        paper=paper["activation_gb_at_4m"],
        form="{:,.0f} GiB",
        cause=(
            f"bytes a token, layer and hidden unit: {need.hidden_bytes:.2f} here, {units:.1f} in "
            "the paper"
        ),
    )
    yield Comparison(
        what=f"{name}: {GPUS}",
        ours=need.gpus,
        ours_label="computed",
        paper=paper["min_a100_80g_at_4m"],
        form="{:,.0f}",
        cause=(
            f"the paper's sizes over 80 GB: {follows['GB']:,} GPUs with its activations as GB, "
            f"{follows['GiB']:,} as GiB"
        ),
    )


def _points(row: Comparison) -> list[Point]:
    model, _, quantity = row.what.partition(": ")
    unit = {GPUS: "GPUs", STATE: "GB", ACTIVATIONS: "GiB"}[quantity]
    ours = Point(
        series=OURS,
        place=model,
        quantity=quantity,
        unit=unit,
        value=row.ours,
        label=row.ours_label,
        source=_SOURCE,
        settings="bfloat16, AdamW, no offload, nothing recomputed",
    )
    paper = Point(
        series=PAPERS,
        place=model,
        quantity=quantity,
        unit=unit,
        value=row.paper,
        label="paper",
        source="arXiv 2503.10377, table 2",
    )
    return [ours, paper]


def _table(needs: Sequence[Need], papers: dict[str, Any]) -> Table:
    rows = []
    for need in needs:
        tokens = token_layers(need.model)
        printed = papers[need.model.name]["activation_gb_at_4m"] * GIB / tokens / need.model.hidden
        rows.append([need.model.name, f"{need.hidden_bytes:.2f} h", f"{printed:.2f} h"])
    titles = ["model", "memory model", "the paper"]
    return Table(heading="Bytes a token and layer", titles=titles, rows=rows, align="lrr")


def _draw(figure: Any, comparisons: Sequence[Comparison]) -> None:
    points = [point for row in comparisons for point in _points(row)]
    looks = {OURS: drawing.OURS, PAPERS: drawing.PAPERS}
    panels = figure.subplots(1, 3)
    for axes, quantity in zip(panels, (STATE, ACTIVATIONS, GPUS), strict=True):
        shown = [point for point in points if point.quantity == quantity]
        drawing.grouped_bars(axes, shown, looks, form="{:,.0f}")
        axes.set_title(quantity)
        axes.set_ylabel(shown[0].unit)
        axes.yaxis.set_major_formatter("{x:,.0f}")
