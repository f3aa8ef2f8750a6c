"""Commands that launch ranks for one answer."""
