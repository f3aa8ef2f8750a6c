"""PyTorch native: FSDP2, Ulysses on functional collectives, and selective checkpointing.

Read first: `adapter.ADAPTER`, `settings.NativeSettings`.
"""
