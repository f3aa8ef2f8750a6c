"""Megatron-Core: settings and grid, model, weights, and CPU patches as data.

Read first: `adapter.ADAPTER`, `settings.MegatronSettings`.
"""
