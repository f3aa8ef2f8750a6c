"""Megatron-Core: settings and grid, model, weights, and CPU patches as data."""
