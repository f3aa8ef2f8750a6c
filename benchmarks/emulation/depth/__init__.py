"""Emulations of a few layers that stand for a whole model, and searches that ask them first.

Read first: `cuts.cuts_of`, `estimates.Estimator`, `fastest.fastest`, `longest.longest`.
"""
