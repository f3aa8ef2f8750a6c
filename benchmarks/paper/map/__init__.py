"""Beyond the paper: SPPO's plans and the peers' steps over lengths, GPUs, hardware and links.

The committed data: results/paper/map.json. Read first: `places.planned`, then `bound.bound_of` and
`verdict.verdict_at`.
"""
