"""Foreign files as documents of the site: published runs, studies, the paper's items, the history.

Read first: `runs.run_document`, `studies.FOLDERS`, `paper.item_document`.
"""
