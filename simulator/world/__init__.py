"""The worlds: users with a hidden taste, how they answer slates, drift and leave, and policies played on them.

Imports `offline`, `durable` and `errors`.
"""
