"""What a plan's computes, copies and messages take, in FLOPs, bytes and time."""
