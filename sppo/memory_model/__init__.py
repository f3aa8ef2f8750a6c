"""Bytes on a device and its host at every compute of a plan.

Read first: `stage_memory.StageMemoryModel`, `stage_memory.Decision`, `live_bytes.LiveBytes`.
"""
