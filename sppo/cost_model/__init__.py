"""FLOPs, bytes and time of a plan's computes, copies and messages."""
