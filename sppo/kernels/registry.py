"""The kernels by name, and that of this process: every system takes its attention from here."""

from __future__ import annotations

from sppo.kernels.attention import AttentionKernel
from sppo.kernels.math_attention import Math
from sppo.kernels.torch_attention import CpuFlash, CudaFlash, Cudnn

KERNELS: dict[str, dict[str, AttentionKernel]] = {
    "cpu": {kernel.name: kernel for kernel in (CpuFlash("flash"), Math("math"))},
    "cuda": {
        kernel.name: kernel
        for kernel in (
            CudaFlash("flash"),
            Cudnn("cudnn"),
            CudaFlash("fa3", "FA3", "flash_attn_interface", (9,)),
            CudaFlash("fa4", "FA4", "flash_attn.cute.interface", (9, 10)),
            Math("math"),
        )
    },
}
"""By type of device: the kernels by name."""

NAMES = tuple(KERNELS["cuda"])
"""The names of all kernels."""

selected: dict[str, AttentionKernel] = {kind: KERNELS[kind]["flash"] for kind in KERNELS}
"""By type of device: the kernel of this process, for every system (`choice.select`)."""
