"""The host tier: one arena a rank, and the activations that go to it and back."""
