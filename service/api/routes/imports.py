"""GET /imports"""

from __future__ import annotations

import msgspec
from fastapi import APIRouter

from service.api.guard import needs
from service.api.state import Shared
from service.contract.operator import ImportResponse, ImportsResponse
from service.store import import_reports

router = APIRouter(tags=["users"], route_class=needs("admin"))


@router.get("/imports")
async def list_imports(state: Shared) -> ImportsResponse:
    """The latest 50 runs of `python -m service import`, newest first: what each does, or took and left out."""
    reports = await import_reports.read(state.redis, state.keys)
    return ImportsResponse(imports=[ImportResponse(**msgspec.to_builtins(report)) for report in reports])
