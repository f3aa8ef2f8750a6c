"""The process of one rank: tokens, weights, device limit, timed steps."""
