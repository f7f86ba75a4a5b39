"""Records compared: paired differences, findings, and whether the goals are reached.

Imports `runs` and `statistics`.
"""
