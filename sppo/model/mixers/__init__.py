"""Attention of one subsequence over the keys and values of all before it.

Read first: `prefix_attention.PrefixAttention`, `flash_blocks.attend`, `kv_cache.KvCache`.
"""
