"""The seam between methods and environments: all that a method sees, and the parts that several methods are made of.

Imports `offline` and `service.policy`; never `world`, which is the truth.
"""
