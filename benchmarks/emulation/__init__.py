"""A system's own step on fake tensors, as any rank of any world.

Read first: `emulator.Emulator`, `result.Emulation`, `search.Searcher`.
"""
