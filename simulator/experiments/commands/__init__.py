"""The commands of the experiments, which compose the other packages; nobody but `__main__` imports them.

Imports all rooms of the experiments.
"""
