"""Everything that is kept, in Redis and on disk: one module a noun, each with its codec. Redis clients are made here.

Imports `policy`, `runtime` and `settings`.
"""
