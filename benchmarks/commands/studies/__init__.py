"""Commands of many launches or many emulations.

Read first: `sweep.Sweep`, `ablation.Ablation`, `paper.Paper`.
"""
