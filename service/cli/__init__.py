"""The commands of `python -m service`, which compose the other packages; nobody imports them.

Imports everything.
"""
