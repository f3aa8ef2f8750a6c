"""Bytes on a device and its host at every compute of a plan.

Read first: `stage_memory.StageMemoryModel`, `decisions.Decision`, `live_bytes.LiveBytes`.
"""
