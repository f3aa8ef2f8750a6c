"""When Megatron sends its messages: in forwards, in backwards, or once a step. No torch.

Settings are the adapter's, as plain values.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

Use = Literal["forward", "backward", "tensor", "context", "once"]


def use_of(operation: str, ranks: Sequence[int], settings: Mapping[str, Any]) -> Use:
    """Sends in a direction; a layer's collectives over TP's or CP's ranks; all else once a step.

    Megatron's ranks are ordered TP, CP, DP, PP.
    """
    if operation in ("send", "recv"):
        return "forward" if ranks[0] < ranks[-1] else "backward"
    tensor = settings["tensor_parallel"]
    inner = tensor * settings["context_parallel"]
    if ranks[0] // inner != ranks[-1] // inner:
        return "once"
    return "tensor" if ranks[0] // tensor == ranks[-1] // tensor else "context"


def forward_share(use: Use, settings: Mapping[str, Any], layers: int) -> float:
    """The part of a layer's collectives over TP or CP that the first forward sends.

    layers: of a model chunk. TP: the backward has as many as the forward; with sequence parallelism
    half as many more, which gather the inputs for the weights' gradients. CP: the forward gathers K
    and V; the backward gathers them again and sums their gradients. The rest is recomputation.
    """
    if use == "context":
        return 1 / (1 + 2 + _again(settings, layers)[1])
    backward = 1.5 if settings["sequence_parallel"] else 1.0
    return 1 / (1 + backward + _again(settings, layers)[0])


def _again(settings: Mapping[str, Any], layers: int) -> tuple[float, float]:
    """The forward's collectives that recomputation sends again: over TP and over CP, 0 to 1.

    Saved attention needs no K and V again. The MLP has half of a layer's collectives over TP.
    """
    share = (settings["recompute_layers"] or layers) / layers
    match settings["recompute"]:
        case "full" | "block":
            return share, share
        case "save-attention":
            return share, 0.0
        case "modules":
            modules = settings["recompute_modules"]
            return 0.5 * ("mlp" in modules), 1.0 * ("core_attn" in modules)
    return 0.0, 0.0
