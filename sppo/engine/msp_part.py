"""A model chunk under MSP on one rank: messages of weights and of slices.

All slices of a subsequence are computed at the same time (paper sec. 6.2, docs/msp.md).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from sppo.comm.messages import Channel, ReceiveWork
from sppo.engine.helper_weights import HelperWeights, part_shapes
from sppo.engine.msp_prefix import prefix_of
from sppo.engine.msp_slices import MspGroup, SlicedLayers, sliced
from sppo.engine.part import Part, StageBuffers
from sppo.model.mixers.hosted_layer import HostedLayer
from sppo.model.mixers.kv_cache import KvCache, ResidentLayer
from sppo.model.weights import Weights


class MspPart(Part):
    """A rank's slices of an MSP split, and the messages between its owner and a helper.

    A helper offloads nothing. Receives return a function that waits for them.
    """

    def __init__(
        self, group: MspGroup, weights: Weights, cache: KvCache, buffers: StageBuffers
    ) -> None:
        self._layers: list[SlicedLayers] = []
        for layer in cache.layers:
            assert isinstance(layer, ResidentLayer | HostedLayer), "helpers gather no K and V"
            self._layers.append(sliced(layer, group, buffers.context))
        split = group.msp_split
        super().__init__(split.part, weights, [self._layers], group.spans, buffers)
        self.group = group
        self.prefix = prefix_of(cache, group.start, group.transport)
        self._weights = weights
        self._names = part_shapes(self.plan, self.index)
        self._packed: Tensor | None = None
        if isinstance(weights, HelperWeights):
            self._dropped = [self._in_all_layers(split.recompute_units)] * self.plan.subsequences

    def settle(self) -> None:
        """Complete the receives and sends of K and V of all slices, before the next compute."""
        for layer in self._layers:
            layer.settle()
        self.group.transport.flush(Channel.MSP_SLICES)

    def backward(
        self, sequence: int, subsequence: int, grad: Tensor | None, tokens: Tensor | None
    ) -> Tensor | None:
        for layer in reversed(self._layers):
            layer.send_later_gradients(self.spans[subsequence].start)
        return super().backward(sequence, subsequence, grad, tokens)

    def _send(self, tensor: Tensor, rank: int) -> None:
        self.group.transport.send(tensor, rank, Channel.MSP_WEIGHTS)

    def _receive(self, into: Tensor, rank: int) -> ReceiveWork:
        return self.group.transport.receive(into, rank, Channel.MSP_WEIGHTS)

    def send_weights(self, helper: int, *, with_prefix: bool) -> None:
        """Owner: send the weights, and K and V of all earlier positions, to a helper."""
        if self._packed is None:
            values = [self._weights[name].value.reshape(-1) for name in self._names]
            self._packed = torch.cat(values)
        self._send(self._packed, helper)
        if helper == self.group.helpers[-1]:
            self._packed = None
        if with_prefix:
            self.prefix.send_states(helper)

    def receive_weights(self, owner: int, *, with_prefix: bool) -> Callable[[], None]:
        """Helper: post the receives of `send_weights`; those of hosted K and V in its wait."""
        assert isinstance(self._weights, HelperWeights)
        weights = self._receive(self._weights.flat_values, owner)
        receive_states = self.prefix.receive_states(owner) if with_prefix else None

        def wait() -> None:
            weights.wait()
            if receive_states is not None:
                receive_states()

        return wait

    def send_gradients(self, owner: int) -> None:
        """Helper: send the weight gradients, and dK and dV of all earlier positions, and clear."""
        assert isinstance(self._weights, HelperWeights)
        self._send(self._weights.flat_gradients, owner)
        self.prefix.send_sums(owner)
        self.group.transport.flush(Channel.MSP_WEIGHTS)
        self._weights.flat_gradients.zero_()

    def receive_gradients(self, helper: int) -> Callable[[], None]:
        """Owner: post the receive of the weight gradients; its wait adds them and the dK and dV."""
        gradients = [self._weights[name].gradient for name in self._names]
        sizes = [gradient.numel() for gradient in gradients]
        flat = gradients[0].new_empty(sum(sizes))
        work = self._receive(flat, helper)

        def wait() -> None:
            work.wait()
            for gradient, received in zip(gradients, flat.split(sizes), strict=True):
                gradient.add_(received.view(gradient.shape))
            self.prefix.add_sums(helper)
            self.group.transport.flush(Channel.MSP_WEIGHTS)

        return wait
