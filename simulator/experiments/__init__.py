"""Experiments: environments x methods x seeds from one declarative file, and the tables and plots made of them.

Imports `world`, `pages` and `statistics`, and of the service `policy` alone; `runs.degradation` plays its watch, too.
"""
