"""What schemathesis asks besides its own checks, and what it sends in place of ids that name nothing."""

from __future__ import annotations

from typing import Any

import schemathesis
from schemathesis import Case, CheckContext, GenerationMode, HookContext, Response

from service.conditions import MAX_PARTS
from service.contract.context import TOO_MANY

# Why a request may be refused although the schema allows it: what no JSON Schema can say.
BEYOND_THE_SCHEMA = {
    ("value_error", "Value error, must be at most 256 bytes of UTF-8"),  # a schema counts characters
    ("value_error", "Value error, must not be only white space"),  # of which Python knows more kinds
    ("value_error", "Value error, pins: two are for the same slot"),
    ("value_error", f"Value error, has more than {MAX_PARTS} comparisons"),  # of all conditions in one another
    ("value_error", f"Value error, {TOO_MANY}"),  # facts, of which some count twice
    ("too_many", None),  # with what is stored already
    ("invalid_condition", None),  # JSON within a text
    ("unknown_item", "is not in the catalogue"),
    ("unknown_type", None),  # the types are a setting; the message lists them
    ("reward_out_of_range", None),  # so is the largest reward; the message has it
    ("repeated_id", "comes twice"),  # of items that differ otherwise
    ("unknown_action", "is not one of the actions"),
    ("nothing_left", "are all excluded, hidden or deleted"),
}


@schemathesis.check
def refusals_are_explained(ctx: CheckContext, response: Response, case: Case[Any]) -> None:
    """A 422 to what the schema allows names one of the reasons above; every problem document is whole."""
    if response.status_code < 400 or response.headers["content-type"] != ["application/problem+json"]:
        return
    problem = response.json()
    assert problem["status"] == response.status_code
    assert problem["type"] == f"urn:ialp:problem:{problem['code']}"
    assert [problem["request_id"]] == response.headers["x-request-id"]
    generation = case.meta.generation.mode if case.meta is not None else None
    if response.status_code == 422 and generation is GenerationMode.POSITIVE:
        reasons = {(error["code"], error["message"]) for error in problem["errors"]}
        reasons = {(code, None if (code, None) in BEYOND_THE_SCHEMA else message) for code, message in reasons}
        assert reasons and reasons <= BEYOND_THE_SCHEMA, f"refused, but allowed by the schema: {sorted(reasons)}"


@schemathesis.hook
def map_body(context: HookContext, body: Any) -> Any:
    """Most texts name no item and no type: most events are made to, so that they get further than that."""
    path = context.operation.path if context.operation is not None else ""
    if path.endswith("/rank") and isinstance(body, dict):
        return _of_actions(body)
    if path != "/feedback" or not isinstance(body, dict | list):
        return body
    return [_known(event) for event in body] if isinstance(body, list) else _known(body)


@schemathesis.hook
def map_path_parameters(context: HookContext, path_parameters: Any) -> Any:
    """Half of the users, items and events that are asked for exist."""
    known = {"user_id": "ann", "item_id": "film-1", "eventId": "event-1"}
    return {
        name: known[name]
        if name in known and isinstance(value, str) and 1 < len(value) <= 256 and len(value) % 2
        else value
        for name, value in (path_parameters or {}).items()
    }


def _of_actions(request: dict[str, Any]) -> dict[str, Any]:
    """Half of the requests that exclude anything exclude some of their actions."""
    actions, excluded = request.get("actions"), request.get("excludedActions")
    if not isinstance(actions, list) or not isinstance(excluded, list) or len(excluded) % 2:
        return request
    return request | {"excludedActions": [a.get("id") for a in actions[1:] if isinstance(a, dict)][: len(excluded)]}


def _known(event: Any) -> Any:
    if not isinstance(event, dict):
        return event
    known = dict(event)
    item_id, kind = event.get("item_id"), event.get("type")
    if isinstance(item_id, str) and 0 < len(item_id) <= 256 and len(item_id) % 8:
        known["item_id"] = f"film-{len(item_id) % 30}"
    if isinstance(kind, str) and 0 < len(kind) <= 64 and kind.isascii() and kind.isalnum():
        known["type"] = ("click", "skip", "dislike")[len(kind) % 3]
    return known
