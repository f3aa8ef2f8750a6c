"""Messages and collectives between ranks, and who is who among them.

Read first: `messages.Transport`, `collectives.Team`, `mesh.join_groups`, `in_process.run_together`.
"""
