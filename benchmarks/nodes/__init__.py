"""Several nodes: the same command on each, of which node 0 measures. The page: docs/nodes.md.

Read first: `place.Place`, `messages.Message`, `head.gather`, `crew.Crew`, `follower.Follower`.
"""
