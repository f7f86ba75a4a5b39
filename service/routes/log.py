"""GET /impressions, GET /log:export"""

from __future__ import annotations

import asyncio
import tempfile
from collections import defaultdict
from http import HTTPStatus
from pathlib import Path
from typing import Annotated, BinaryIO

import redis as syncredis
from fastapi import APIRouter, Query
from fastapi.responses import StreamingResponse
from starlette.background import BackgroundTask

from service import events, streams
from service.errors import Problem
from service.events import Feedback, Impression
from service.export_files import ExportError, is_available, write_log
from service.guard import needs
from service.keys import Keys
from service.openapi import problems
from service.operator_schemas import ImpressionResponse, ImpressionsResponse, ShownItem
from service.settings import Settings
from service.state import Shared, State

router = APIRouter(tags=["log"], route_class=needs("admin"))
_LOOKED_AT = 5_000  # entries of the log, from its end
_PARQUET = "application/vnd.apache.parquet"


@router.get("/impressions")
async def list_impressions(state: Shared, count: Annotated[int, Query(ge=1, le=200)] = 50) -> ImpressionsResponse:
    """The latest slates of the log's last 5,000 entries, newest first, with the feedback that names them."""
    found = await _latest(state, count)
    ids = list(dict.fromkeys(item for _, impression, _ in found for item in impression.items))
    texts = {item: record.text for item, record in zip(ids, await state.watch.store.known(ids), strict=True)}
    return ImpressionsResponse(
        impressions=[
            ImpressionResponse(
                recommendation_id=impression.recommendation_id,
                at=streams.entry_ms(entry_id) / 1000,
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
    responses={200: {"content": {_PARQUET: {"schema": {"type": "string", "format": "binary"}}}}, **problems(501, 507)},
)
async def export_log(state: Shared) -> StreamingResponse:
    """The log as `python -m service export` writes it: closed impressions with propensities and rewards, as Parquet."""
    try:
        file = await asyncio.to_thread(_written, state.settings, state.keys)
    except ExportError as error:
        status = HTTPStatus.NOT_IMPLEMENTED if not is_available() else HTTPStatus.INSUFFICIENT_STORAGE
        raise Problem(status, "export_unavailable", f"{error}.") from None
    headers = {"Content-Disposition": 'attachment; filename="log.parquet"'}
    return StreamingResponse(file, media_type=_PARQUET, headers=headers, background=BackgroundTask(file.close))


def _written(settings: Settings, keys: Keys) -> BinaryIO:
    """The log in a file that has no name any more, so that nothing is left of it whatever becomes of the answer."""
    with (
        tempfile.TemporaryDirectory(prefix="ialp-export-") as folder,
        syncredis.Redis.from_url(settings.redis_url, socket_timeout=60) as client,
    ):
        path = Path(folder) / "log.parquet"
        write_log(path, client, keys, settings.reward_window_s)
        return path.open("rb")
