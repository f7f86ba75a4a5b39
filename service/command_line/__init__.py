"""What the three command lines share: pages of help, mistakes and exit codes, progress. Imports nothing else of ours,
and no torch: help and completion are there at once.
"""
