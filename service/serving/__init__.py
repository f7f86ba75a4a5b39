"""From a user's state to a slate: the version in service, its loader, batching and the `Recommender`.

Imports `store` and below; knows nothing of HTTP.
"""
