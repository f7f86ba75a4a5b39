"""The methods, each one file: `METHODS` in it names the functions that build an `Agent` from a `Setting`.

Imports `seam`, and what that may.
"""
