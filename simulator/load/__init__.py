"""Synthetic users against a running service: its lean client, the traffic, and the report of a run.

Imports `world`, `pages` and `statistics`, and of the service `client` and `contract` alone.
"""
