"""GET /policies, POST /policies/{version}:activate, POST /policies:rollback, POST /policies:freeze"""

from __future__ import annotations

from collections.abc import Awaitable
from http import HTTPStatus
from typing import Annotated

import msgspec
from fastapi import APIRouter, Path

from service.api.errors import Problem
from service.api.guard import needs
from service.api.openapi import problems
from service.api.state import Shared, State
from service.contract.operator import (
    ActivateRequest,
    FindingResponse,
    LiveResponse,
    PoliciesResponse,
    PolicyResponse,
    RollBackResponse,
)
from service.store.registry import Live, PolicyRecord, RegistryError
from service.store.worker_report import Finding

router = APIRouter(tags=["policies"], route_class=needs("admin"))


@router.get("/policies", responses=problems(409))
async def list_policies(state: Shared) -> PoliciesResponse:
    """All versions, newest first, with lineage and gate results."""
    try:
        live = await state.watch.registry.live()
        records = await state.watch.registry.records()
        roll_backs = await state.watch.registry.roll_backs()
    except RegistryError as error:
        raise _conflict(error) from None
    return PoliciesResponse(
        live_version=live.version if live else None,
        mode=live.mode if live else None,
        shadow_version=live.shadow if live else None,
        policies=[_response(record) for record in records],
        rollbacks=[
            RollBackResponse(finding=finding_response(r.finding), version=r.version, mode=r.mode, at=r.at)
            for r in roll_backs
        ],
    )


@router.post("/policies/{version}:activate", responses=problems(404, 409))
async def activate(
    version: Annotated[int, Path(ge=1, le=2**53)], state: Shared, request: ActivateRequest | None = None
) -> LiveResponse:
    """Let a version serve, by default until the worker publishes a better one.

    One that the gate refused is activated with `force` alone.
    """
    options = request if request is not None else ActivateRequest()
    registry, folder = state.watch.registry, state.settings.data_dir
    return await _moved(registry.activate(version, options.follow, folder, options.force), state)


@router.post("/policies/{version}:shadow", responses=problems(404, 409))
async def shadow(version: Annotated[int, Path(ge=1, le=2**53)], state: Shared) -> LiveResponse:
    """Make a version, then each new one, the shadow version: it computes and logs slates, and serves none.

    The version that serves is held meanwhile. Activating a version, be it the shadow version, ends this.
    """
    return await _moved(state.watch.registry.shadow(version), state)


@router.post("/policies:rollback", responses=problems(409))
async def roll_back(state: Shared) -> LiveResponse:
    """Let the version that served before serve again, and hold it until one is activated."""
    return await _moved(state.watch.registry.roll_back(), state)


@router.post("/policies:freeze", responses=problems(409))
async def freeze(state: Shared) -> LiveResponse:
    """Kill switch: everybody gets the pre-trained policy until a version is activated."""
    return await _moved(state.watch.registry.freeze(), state)


async def _moved(change: Awaitable[Live], state: State) -> LiveResponse:
    try:
        live = await change
    except LookupError as error:
        raise Problem(HTTPStatus.NOT_FOUND, "unknown_version", f"{str(error).capitalize()}.") from None
    except RegistryError as error:
        raise _conflict(error) from None
    await state.watch.refresh()
    return LiveResponse(live_version=live.version, mode=live.mode, shadow_version=live.shadow)


def finding_response(finding: Finding) -> FindingResponse:
    """A finding of the watch as the contract has it."""
    return FindingResponse(**msgspec.structs.asdict(finding))


def _conflict(error: RegistryError) -> Problem:
    return Problem(HTTPStatus.CONFLICT, "conflict", f"{str(error).capitalize()}.")


def _response(record: PolicyRecord) -> PolicyResponse:
    return PolicyResponse(
        version=record.version,
        parent=record.parent,
        created_at=record.created_at,
        variant=record.variant,
        learner=record.learner,
        lineage=record.lineage,
        metrics=record.metrics,
        gate_passed=record.gate.passed,
        gate_reasons=list(record.gate.reasons),
        gate_numbers=record.gate.numbers,
        gate_share=record.gate.share,
    )
