"""Experiments: environments x methods x seeds from one declarative file, and the tables and plots made of them.

A method is one file in `methods/`: a function that builds an `Agent`, named in that file's `METHODS`.
"""
