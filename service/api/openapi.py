"""The OpenAPI document: every problem a route may answer with, as application/problem+json and nothing else."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

from fastapi import FastAPI
from starlette.convertors import Convertor, register_url_convertor

from service.api.errors import MEDIA_TYPE
from service.conditions import condition_schema
from service.contract.filters import CONDITION
from service.contract.schemas import ProblemDocument

SCHEMES: dict[str, dict[str, str]] = {
    "bearer": {"type": "http", "scheme": "bearer", "bearerFormat": "ialp_<key id>_<secret>"},
    "api_key": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
    "subscription_key": {"type": "apiKey", "in": "header", "name": "Ocp-Apim-Subscription-Key"},
}  # ways to send an API key

_CONDITION = "#/components/schemas/Condition"
_REFERENCE = {"schema": {"$ref": "#/components/schemas/ProblemDocument"}}


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """`responses` of a route, or of the application, for these statuses."""
    return {s: {"description": HTTPStatus(s).phrase, "content": {MEDIA_TYPE: _REFERENCE}} for s in statuses}


class DocumentedAPI(FastAPI):
    """FastAPI puts a response's model under application/json; so problems are referred to, and their schema added."""

    def openapi(self) -> dict[str, Any]:
        """The document, made once."""
        if self.openapi_schema is not None:
            return self.openapi_schema
        document = super().openapi()
        template = "#/components/schemas/{model}"
        schema = ProblemDocument.model_json_schema(mode="serialization", ref_template=template)
        document["components"]["schemas"] |= {**schema.pop("$defs"), "ProblemDocument": schema}
        document = {name: _with_conditions(part) for name, part in document.items()}
        document["components"]["schemas"]["Condition"] = condition_schema(_CONDITION)
        document["components"]["securitySchemes"] = SCHEMES
        self.openapi_schema = document
        return document


def _with_conditions(part: Any) -> Any:
    """Refer to the schema of conditions wherever one stands."""
    if isinstance(part, list):
        return [_with_conditions(one) for one in part]
    if not isinstance(part, dict):
        return part
    if part.items() >= CONDITION.items():
        return {"$ref": _CONDITION}
    return {name: _with_conditions(one) for name, one in part.items()}


class _OpaqueConvertor(Convertor[str]):
    """All that is left of a path. Starlette's `path` ends at a line feed, and would take "ann%0A" for ann."""

    regex = "(?s:.*)"

    def convert(self, value: str) -> str:
        """Return the value unchanged."""
        return value

    def to_string(self, value: str) -> str:
        """Return the value unchanged."""
        return value


class _EntryConvertor(_OpaqueConvertor):
    """An entry of the log: two numbers of 64 bits."""

    regex = r"\d{1,15}-\d{1,15}"


class _PersonalizerVersionConvertor(_OpaqueConvertor):
    """A version of Azure Personalizer's interface."""

    regex = r"v1\.(?:0|1(?:-preview\.[0-9]{1,3})?)"


register_url_convertor("opaque", _OpaqueConvertor())
register_url_convertor("entry", _EntryConvertor())
register_url_convertor("personalizer_version", _PersonalizerVersionConvertor())
