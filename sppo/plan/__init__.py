"""The plan as data: model chunks, saved tensors, MSP splits and their decisions.

Read first: `plan.Plan`, `layout.Layout`, `msp.MspSplit`, `saved_tensors.SavedTensor`.
"""
