"""DeepSpeed: Ulysses, ZeRO and activation checkpointing.

Read first: `adapter.ADAPTER`, `settings.DeepSpeedSettings`.
"""
