"""Bytes by kind, FLOPs and messages of one step, real or fake.

Read first: `accounting.Accounting`, `memory_timeline.Journal`.
"""
