"""The systems that are compared, each behind the protocol of `protocol.py`."""
