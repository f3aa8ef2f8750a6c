"""The plan as data: model chunks, saved tensors, MSP splits and their decisions."""
