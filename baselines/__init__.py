"""The systems that are compared, each behind the protocol of `protocol.py`.

Read first: `protocol.Adapter`, `protocol.System`, `registry.load`, `reference.ReferenceAdapter`.
"""
