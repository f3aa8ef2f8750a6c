"""PyTorch native: FSDP2, TP, Ulysses, ring attention, selective checkpointing.

Read first: `adapter.ADAPTER`, `settings.NativeSettings`.
"""
