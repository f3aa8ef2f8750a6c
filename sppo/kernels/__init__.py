"""Kernels that all systems share: attention by name, and element-wise pieces fused on CUDA.

Read first: `attention.AttentionKernel`, `choice.select`, `fused.fuse`.
"""
