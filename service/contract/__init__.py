"""The HTTP contract: pydantic schemas of requests, responses and problem documents.

Imports nothing of ours, and no torch.
"""
