"""Commands that read what is there and show it."""
