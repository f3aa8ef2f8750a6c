"""The decoder of one part: blocks, loss, weights, and what makes dropped tensors again.

Read first: `decoder.PartModel`, `weights.StageWeights`, `recompute.BlockRecomputer`, `loss.TiledLoss`.
"""
