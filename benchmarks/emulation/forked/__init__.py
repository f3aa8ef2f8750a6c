"""Emulated ranks as forks of processes that have imported a system's library.

Read first: `preloaded.PreloadedRanks`.
"""
