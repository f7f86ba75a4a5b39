"""Persons with plain tastes, who judge what a running service would show them.

Imports `load` for its way to the service, `pages`, and of the service `client` and `contract` alone.
"""
