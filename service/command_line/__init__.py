"""Shared parts of the three command lines: pages of help, mistakes and exit codes, progress. Imports nothing of ours,
and no torch: help and completion are there at once.
"""
