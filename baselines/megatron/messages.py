"""Megatron's messages between pipeline stages, made right for gloo: two patches of `patches.py`.

Both faults are silent: gradients are wrong, and no error is raised.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable
from typing import Any

from torch import Tensor


class _Send:
    """The request of a send, which holds what it sends until somebody waits for it."""

    def __init__(self, request: Any, sent: Tensor) -> None:
        self.held: tuple[Any, Tensor] | None = (request, sent)

    def wait(self) -> None:
        """Once the message is sent, nothing is held."""
        if self.held is not None:
            self.held[0].wait()
            self.held = None


def hold_what_is_sent() -> None:
    """Send an alias: Megatron gives the tensor itself other memory before the message is sent.

    gloo's request alone would hold the alias too. torch's fake group, which emulates, would not.
    """

    def wrap(original: Callable[..., Any]) -> Callable[..., Any]:
        def send_and_receive(**options: Any) -> dict[str, Any]:
            sent: dict[str, Tensor] = {}
            for name in ("send_prev", "send_next"):
                tensor = options[f"tensor_{name}"]
                if tensor is not None:
                    sent[name] = options[f"tensor_{name}"] = tensor.detach()
            requests: dict[str, Any] = original(**options)
            return requests | {name: _Send(requests[name], sent[name]) for name in sent}

        return send_and_receive

    _wrap("_p2p_ops", wrap)


def receive_in_the_order_of_sends() -> None:
    """Between two stages: both send their gradient first, so it is received first."""

    def wrap(original: Callable[..., Any]) -> Callable[..., Any]:
        def send_and_receive(**options: Any) -> Any:
            activation, gradient = options["tensor_recv_prev"], options["tensor_recv_next"]
            both = activation is not None and gradient is not None
            if both and options["group"].size() == 2:
                # The neighbours are one rank: only the order of its messages tells them apart.
                options |= {"tensor_recv_prev": gradient, "tensor_recv_next": activation}
            return original(**options)

        return send_and_receive

    _wrap("_batched_p2p_ops", wrap)


def _wrap(name: str, wrap: Callable[[Callable[..., Any]], Callable[..., Any]]) -> None:
    """Replace a function of the module; a second call wraps the original again."""
    module = importlib.import_module("megatron.core.pipeline_parallel.p2p_communication")
    current = getattr(module, name)
    original = getattr(current, "__wrapped__", current)
    setattr(module, name, functools.wraps(original)(wrap(original)))
