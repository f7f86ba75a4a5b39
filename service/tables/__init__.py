"""Tables as people have them: files of any usual form as rows, columns by what they mean, cells as values.

Imports nothing of ours: `python -m offline` and `python -m service import` read the same files in the same way.
"""
