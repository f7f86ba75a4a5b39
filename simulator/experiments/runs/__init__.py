"""What is played: the declarative files, what they need prepared, runs in parallel, and a record of each.

Imports `methods`, `seam` and `world`.
"""
