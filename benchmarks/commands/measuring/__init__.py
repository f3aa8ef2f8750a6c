"""Commands that launch ranks for one answer.

Read first: `run.Run`, `limit.Limit`, `longest.Longest`, `profile.Profile`.
"""
