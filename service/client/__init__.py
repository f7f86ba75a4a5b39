"""The SDK: `Client`, `AsyncClient`, their errors and what they send, with retries that count no event twice.

Imports `service.contract` alone, so that it installs without the service.
"""

from service.client.async_client import AsyncClient
from service.client.calls import ServiceError, Slate
from service.client.sync_client import Client
from service.contract.items import BatchItem
from service.contract.schemas import FeedbackEvent, PastInteraction, RecommendRequest

__all__ = [
    "AsyncClient",
    "BatchItem",
    "Client",
    "FeedbackEvent",
    "PastInteraction",
    "RecommendRequest",
    "ServiceError",
    "Slate",
]
