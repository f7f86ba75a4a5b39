"""Runs of methods in environments: the declarative files, what they need prepared, parallel play, a record of each.

Imports `methods`, `seam` and `world`.
"""
