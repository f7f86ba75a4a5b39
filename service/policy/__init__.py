"""The core: networks, learner, sampling, off-policy estimates, snapshots. Pure functions of tensors and arrays.

Imports nothing of ours.
"""
