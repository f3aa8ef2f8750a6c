"""Attention of one subsequence over the keys and values of all before it."""
