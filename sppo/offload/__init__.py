"""The host tier: one arena a rank, and the activations that go to it and back.

Read first: `activation_store.ActivationStore`, `host_memory.HostArena`, `host_memory.CopyStreams`.
"""
