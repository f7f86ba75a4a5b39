"""GET /impressions, GET /log:export"""

from __future__ import annotations

import asyncio
import tempfile
from collections import defaultdict
from http import HTTPStatus
from pathlib import Path
from typing import Annotated, Literal

from fastapi import APIRouter, Query
from fastapi.responses import StreamingResponse
from starlette.background import BackgroundTask

from service.api.errors import Problem
from service.api.guard import needs
from service.api.openapi import problems
from service.api.state import Shared, State
from service.contract.operator import ImpressionResponse, ImpressionsResponse, ShownItem
from service.export.files import ExportError, NoPyarrow, write_log
from service.export.obp import Limits, TooLarge, obp_file
from service.settings import Settings
from service.store import event_log, events
from service.store.connect import EXPORT_S, connect_blocking
from service.store.events import Feedback, Impression
from service.store.keys import Keys

router = APIRouter(tags=["log"], route_class=needs("admin"))
_LOOKED_AT = 5_000  # entries of the log, from its end
_PARQUET = "application/vnd.apache.parquet"
_NPZ = "application/octet-stream"  # a zip by its content; browsers unpack what is called one
_BINARY = {"schema": {"type": "string", "format": "binary"}}
OBP_LIMITS = Limits()


@router.get("/impressions")
async def list_impressions(state: Shared, count: Annotated[int, Query(ge=1, le=200)] = 50) -> ImpressionsResponse:
    """The latest slates of the log's last 5,000 entries, newest first, with the feedback that names them."""
    found = await _latest(state, count)
    ids = list(dict.fromkeys(item for _, impression, _ in found for item in impression.items))
    texts = {item: record.text for item, record in zip(ids, await state.watch.store.get_many(ids), strict=True)}
    return ImpressionsResponse(
        impressions=[
            ImpressionResponse(
                recommendation_id=impression.recommendation_id,
                at=event_log.entry_ms(entry_id) / 1000,
                user=impression.user,
                arm=impression.arm,
                policy_version=impression.policy_version,
                weight=impression.weight,
                entropy=impression.entropy,
                items=[
                    ShownItem(item_id=item, text=texts[item], propensity=propensity, reward=rewards.get(item))
                    for item, propensity in zip(impression.items, impression.propensities, strict=True)
                ],
            )
            for entry_id, impression, rewards in found
        ]
    )


async def _latest(state: State, count: int) -> list[tuple[str, Impression, dict[str, float]]]:
    """Entry id, slate and rewards by item, newest first."""
    rewards: dict[str, dict[str, float]] = defaultdict(dict)
    found: list[tuple[str, Impression, dict[str, float]]] = []
    for entry_id, payload in await state.log.latest(_LOOKED_AT):
        try:
            event = events.decode(payload)
        except events.EventError:
            continue
        if isinstance(event, Feedback) and event.recommendation_id is not None:
            of_slate = rewards[event.recommendation_id]
            of_slate[event.item_id] = of_slate.get(event.item_id, 0.0) + event.reward
        elif isinstance(event, Impression):
            found.append((entry_id, event, rewards.pop(event.recommendation_id, {})))
            if len(found) == count:
                break
    return found


@router.get(
    "/log:export",
    response_class=StreamingResponse,
    responses={200: {"content": {_PARQUET: _BINARY, _NPZ: _BINARY}}, **problems(501, 507)},
)
async def export_log(
    state: Shared,
    form: Annotated[
        Literal["parquet", "obp"],
        Query(description="Parquet, or the Open Bandit Pipeline's `bandit_feedback` as .npz without pickle."),
    ] = "parquet",
) -> StreamingResponse:
    """The log as `python -m service export` writes it: closed impressions with propensities and rewards.

    `form=obp` has one round for each slot, and limits; past them the command is the way.
    """
    try:
        return await asyncio.to_thread(_FORMS[form], state.settings, state.keys)
    except NoPyarrow as error:
        raise Problem(HTTPStatus.NOT_IMPLEMENTED, "export_unavailable", f"{error}.") from None
    except TooLarge as error:
        raise Problem(HTTPStatus.INSUFFICIENT_STORAGE, "log_too_large", f"{error}.") from None
    except ExportError as error:
        raise Problem(HTTPStatus.INSUFFICIENT_STORAGE, "export_unavailable", f"{error}.") from None


def _parquet(settings: Settings, keys: Keys) -> StreamingResponse:
    """From a file that has no name any more, so that nothing is left of it whatever becomes of the answer."""
    with tempfile.TemporaryDirectory(prefix="ialp-export-") as folder, connect_blocking(settings, EXPORT_S) as client:
        path = Path(folder) / "log.parquet"
        write_log(path, client, keys, settings.reward_window_s)
        file = path.open("rb")
    headers = {"Content-Disposition": 'attachment; filename="log.parquet"'}
    return StreamingResponse(file, media_type=_PARQUET, headers=headers, background=BackgroundTask(file.close))


def _obp(settings: Settings, keys: Keys) -> StreamingResponse:
    with connect_blocking(settings, EXPORT_S) as client:
        _, parts = obp_file(client, keys, settings.reward_window_s, OBP_LIMITS)
    headers = {"Content-Disposition": 'attachment; filename="bandit_feedback.npz"'}
    return StreamingResponse(parts, media_type=_NPZ, headers=headers)


_FORMS = {"parquet": _parquet, "obp": _obp}
