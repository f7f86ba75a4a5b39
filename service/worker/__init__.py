"""The learner's loop: its state, transitions, the gate before a version serves and the watch after it.

Imports `store` and below, never `serving` or `api`.
"""
