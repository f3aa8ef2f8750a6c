"""The CUDA path proved without a GPU: order of streams, late copies, NCCL's order and room.

Read first: `cases.CASES`, `ranks_in_threads.run_case`, `fake_cuda_rank.run_rank`, `proof`. Peers:
`peer_cases.CASES`, `fake_cuda_peer.run_peer`.
"""
