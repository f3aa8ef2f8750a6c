"""PyTorch native: FSDP2, Ulysses, ring attention, selective checkpointing.

Read first: `adapter.ADAPTER`, `settings.NativeSettings`.
"""
