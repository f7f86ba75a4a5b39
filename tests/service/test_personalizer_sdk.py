"""Azure's own Python client, the last that was no preview, against a running service: only its address is new."""

from __future__ import annotations

import pytest
import redis as syncredis
from azure.cognitiveservices.personalizer import PersonalizerClient
from azure.cognitiveservices.personalizer.models import ErrorResponseException, RankableAction, RankRequest
from msrest.authentication import CognitiveServicesCredentials
from msrest.exceptions import HttpOperationError

from service.settings import Settings
from service.store.events import Feedback, Impression
from service.store.keys import Keys
from tests.service.auth_examples import add_key
from tests.service.service_examples import logged, serving_http

ACTIONS = [
    RankableAction(id="pasta", features=[{"title": "Pasta with basil"}, {"nutrition": {"calories": 500}}]),
    RankableAction(id="ice cream", features=[{"taste": "sweet"}]),
    RankableAction(id="film-1", features=[{}]),
]


def test_azures_client_ranks_rewards_and_activates(settings: Settings, redis: syncredis.Redis, keys: Keys) -> None:
    token = add_key(redis, keys, "serve", "feedback", "admin")
    patient = {"auth": "on", "reward_window_s": 90.0, "recommend_redis_timeout_s": 30.0}
    with (
        serving_http(settings.model_copy(update=patient)) as api,
        PersonalizerClient(str(api.base_url).rstrip("/"), CognitiveServicesCredentials(token)) as client,
    ):
        context = [{"userId": "ann", "timeOfDay": "morning"}]
        asked = RankRequest(
            actions=ACTIONS, context_features=context, excluded_actions=["ice cream"], event_id="ein Ereignis/1 ü"
        )
        ranked = client.rank(asked)
        assert ranked.event_id == "ein Ereignis/1 ü"
        assert ranked.ranking[1].id == "ice cream" and ranked.ranking[1].probability == 0
        assert ranked.reward_action_id == ranked.ranking[0].id
        assert sum(action.probability for action in ranked.ranking) == pytest.approx(1.0)
        client.events.reward(ranked.event_id, 0.5)

        deferred = client.rank(RankRequest(actions=ACTIONS, defer_activation=True))
        client.events.reward(deferred.event_id, 1.0)
        client.events.activate(deferred.event_id)
        client.events.reward(deferred.event_id, 0.25)

        with pytest.raises(ErrorResponseException) as refused:
            client.rank(RankRequest(actions=ACTIONS + ACTIONS[:1]))
        assert refused.value.response.json()["detail"] == "Not valid: actions.3.id."
        with pytest.raises(HttpOperationError) as unknown:
            client.events.reward("nobody's", 1.0)
        assert unknown.value.response.status_code == 404
    events = logged(redis, settings)
    shown = [event.items[0] for event in events if isinstance(event, Impression)]
    assert shown == [ranked.reward_action_id, deferred.reward_action_id]
    answered = [(event.user, event.item_id, event.reward) for event in events if isinstance(event, Feedback)]
    assert answered == [
        ("u:ann", ranked.reward_action_id, 0.5),
        (f"s:{deferred.event_id}", deferred.reward_action_id, 0.25),
    ]
