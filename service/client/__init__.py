"""The SDK: `Client`, `AsyncClient` and their errors, with retries that count no event twice.

Imports `service.contract` alone, so that it installs without the service.
"""

from service.client.calls import ServiceError
from service.client.clients import AsyncClient, Client

__all__ = ["AsyncClient", "Client", "ServiceError"]
