"""The decoder of one model chunk: blocks, loss, weights, recomputation of saved tensors.

Read first: `decoder.PartModel`, `weights.StageWeights`, `recompute.BlockRecomputer`,
`loss.TiledLoss`.
"""
