"""Attention by operators of torch: flash attention of CPUs and CUDA, and cuDNN's."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from sppo.kernels.attention import (
    AttentionKernel,
    Block,
    Gradients,
    registered_flash_attention,
    use_registered,
)

_aten: Any = torch.ops.aten

HALF_DTYPES = (torch.bfloat16, torch.float16)


class CpuFlash(AttentionKernel):
    """torch's flash attention of CPUs, in any dtype."""

    def forward(self, query: Tensor, keys: Tensor, values: Tensor, causal: bool) -> Block:
        out, logsumexp = _aten._scaled_dot_product_flash_attention_for_cpu(
            query, keys, values, 0.0, causal
        )[:2]
        return out, logsumexp

    def backward(
        self,
        grad: Tensor,
        query: Tensor,
        keys: Tensor,
        values: Tensor,
        out: Tensor,
        logsumexp: Tensor,
        causal: bool,
    ) -> Gradients:
        gradients: Gradients = _aten._scaled_dot_product_flash_attention_for_cpu_backward(
            grad, query, keys, values, out, logsumexp, 0.0, causal
        )
        return gradients

    def causal(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(
            query, key, value, is_causal=True, enable_gqa=query.shape[1] != key.shape[1]
        )

    def obstacle(self, device: torch.device, dtype: torch.dtype, width: int) -> str | None:
        if device.type != "cpu":
            return f"attention on {device.type}: only cpu and cuda have a flash operator here"
        return None


class CudaFlash(AttentionKernel):
    """torch's flash operator of CUDA: FlashAttention-2, or what torch's registry puts in its place.

    registered: the registry's name of another implementation, which a package brings.
    """

    is_aligned_right = True

    def __init__(
        self,
        name: str,
        registered: str | None = None,
        module: str = "",
        capabilities: tuple[int, ...] = (),
    ) -> None:
        super().__init__(name)
        self.registered = registered
        self.module = module
        self.capabilities = capabilities

    def forward(self, query: Tensor, keys: Tensor, values: Tensor, causal: bool) -> Block:
        out, logsumexp = _aten._scaled_dot_product_flash_attention(
            query, keys, values, 0.0, causal
        )[:2]
        return out, logsumexp

    def backward(
        self,
        grad: Tensor,
        query: Tensor,
        keys: Tensor,
        values: Tensor,
        out: Tensor,
        logsumexp: Tensor,
        causal: bool,
    ) -> Gradients:
        # Without dropout the philox seed and offset are not read, but must be tensors.
        unused = torch.empty((), dtype=torch.uint64, device=query.device)
        lengths = (None, None, query.shape[2], keys.shape[2])
        gradients: Gradients = _aten._scaled_dot_product_flash_attention_backward(
            grad, query, keys, values, out, logsumexp, *lengths, 0.0, causal, unused, unused
        )
        return gradients

    def causal(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
            return _torch_attention(query, key, value)

    def obstacle(self, device: torch.device, dtype: torch.dtype, width: int) -> str | None:
        problem = _cuda_obstacle(self.name, device, dtype, width, widest=256)
        if problem is not None or self.registered is None:
            return problem
        major, _ = torch.cuda.get_device_capability(device)
        if major not in self.capabilities:
            return f"{self.name} needs compute capability {self._capabilities_words}, not {major}"
        if not _is_installed(self.module):
            return f"{self.name} needs the module {self.module}, which is not installed here"
        if self.registered not in registered_flash_attention():
            return (
                f"{self.name} needs a torch that registers {self.registered}; torch "
                f"{torch.__version__} does not"
            )
        return None

    @property
    def _capabilities_words(self) -> str:
        return " or ".join(f"{major}.x" for major in self.capabilities)

    def prepare(self) -> None:
        use_registered(self.registered)


class Cudnn(AttentionKernel):
    """cuDNN's attention through torch. Its log-sum-exp has one axis more, [1, H, n, 1]."""

    def forward(self, query: Tensor, keys: Tensor, values: Tensor, causal: bool) -> Block:
        out, logsumexp = _aten._scaled_dot_product_cudnn_attention(
            query, keys, values, None, True, 0.0, causal
        )[:2]
        return out, logsumexp.view(query.shape[:3])

    def backward(
        self,
        grad: Tensor,
        query: Tensor,
        keys: Tensor,
        values: Tensor,
        out: Tensor,
        logsumexp: Tensor,
        causal: bool,
    ) -> Gradients:
        unused = torch.empty((), dtype=torch.int64, device=query.device)
        lengths = (None, None, query.shape[2], keys.shape[2])
        gradients: Gradients = _aten._scaled_dot_product_cudnn_attention_backward(
            grad,
            query,
            keys,
            values,
            out,
            logsumexp.unsqueeze(-1),
            unused,
            unused,
            None,
            *lengths,
            0.0,
            causal,
        )
        return gradients

    def causal(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        with sdpa_kernel(SDPBackend.CUDNN_ATTENTION):
            return _torch_attention(query, key, value)

    def obstacle(self, device: torch.device, dtype: torch.dtype, width: int) -> str | None:
        if device.type == "cuda" and not torch.backends.cudnn.is_available():
            return "cudnn needs cuDNN, which this torch does not find; take flash"
        return _cuda_obstacle(self.name, device, dtype, width, widest=128)


def _torch_attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(
        query, key, value, is_causal=True, enable_gqa=query.shape[1] != key.shape[1]
    )


def _cuda_obstacle(
    name: str, device: torch.device, dtype: torch.dtype, width: int, widest: int
) -> str | None:
    """What every fused kernel of CUDA needs."""
    if device.type != "cuda":
        return f"{name} needs a CUDA device, not {device.type}; take flash"
    if dtype not in HALF_DTYPES:
        return (
            f"attention in {dtype} on CUDA: the {name} kernel needs bfloat16; set the workload's "
            "dtype to bfloat16, or take --attention-kernel math"
        )
    if width > widest or width % 8:
        return f"{name} has no heads of width {width}: at most {widest}, a multiple of 8; take math"
    if torch.cuda.get_device_capability(device) < (8, 0):
        return f"{name} needs compute capability 8.0 (A100) or later; take math"
    return None


def _is_installed(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # of a package around it
        return False
