"""The SDK: `Client`, `AsyncClient`, their errors and what they send, with retries that count no event twice.

Imports `service.contract` alone, so that it installs without the service.
"""

from service.client.calls import ServiceError
from service.client.clients import AsyncClient, Client
from service.contract.schemas import BatchItem, FeedbackEvent, PastInteraction

__all__ = ["AsyncClient", "BatchItem", "Client", "FeedbackEvent", "PastInteraction", "ServiceError"]
