"""DeepSpeed: Ulysses, ZeRO and activation checkpointing."""
