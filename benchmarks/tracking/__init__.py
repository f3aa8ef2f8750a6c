"""Runs of Weights & Biases: a launch, a study or the paper's pages, live or from old folders.

Read first: `tracked_run.TrackedRun`, `session.Session`, `folders.find`.
"""
