"""The demo: every stage by its own command, from nothing to a service that learns, and the summary at the end.

Imports all rooms of the simulator but `experiments`.
"""
