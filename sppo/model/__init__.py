"""The decoder of one part: blocks, loss, weights, and what makes dropped tensors again."""
