"""The ranks of one launch: torchrun with a watch, their ends, and which one died first.

Read first: `processes.launch`, `outcome.judge`.
"""
