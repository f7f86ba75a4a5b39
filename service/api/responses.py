"""Put users' responses into the log: about items of this process's catalogue, each once, counted."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from service.api.errors import FieldError
from service.api.state import State
from service.runtime import telemetry
from service.store.events import Feedback


async def sync_items(item_ids: Iterable[str], state: State) -> None:
    """Read new items from Redis, once, if any of these is not in this process's catalogue."""
    if any(item_id not in state.watch.catalogue.index for item_id in item_ids):
        await state.watch.sync_catalogue()


def out_of_range(field: str, reward: float, largest: float) -> FieldError | None:
    """Return the error of a reward that is larger, in absolute value, than any can be; None if it is not."""
    if abs(reward) <= largest:
        return None
    message = f"must be from {-largest:g} to {largest:g}; IALP_REWARD_MAX sets the largest"
    return {"field": field, "code": "reward_out_of_range", "message": message}


async def take(
    responses: Sequence[Feedback], state: State, marks: Sequence[str] | None = None, remembered: bool = True
) -> list[bool]:
    """Log responses to known items; they are durable when this returns. False where one was known already.

    `marks` are keys, other than those of their event ids, that stand for their having been taken. Unless `remembered`,
    they become no part of their users' sessions.
    """
    with telemetry.span("log", events=len(responses)):
        places = [state.watch.catalogue.index[response.item_id] for response in responses]
        accepted = await state.log.append_feedback(responses, places, marks, remembered) if responses else []
    for response, fresh in zip(responses, accepted, strict=True):
        state.metrics.feedback.labels("accepted" if fresh else "duplicate").inc()
        if fresh and response.reward > 0:
            state.metrics.reward.labels(str(state.recommender.arm_of(response.user))).inc(response.reward)
    return accepted
