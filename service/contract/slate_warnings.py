"""Warnings that a slate may come with, and what each means."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, WithJsonSchema

WARNINGS = {
    "catalogue_empty": "The catalogue has no item that may be shown.",
    "fewer_items_than_k": "The slate has fewer items than were asked for.",
    "impression_not_logged": "The slate is not in the log, so nothing is learned from it and its items do not count as "
    "seen.",
    "no_items_left": "The catalogue has items, but none is left after what the request excludes or filters and what "
    "the user has seen.",
    "no_policy": "No policy is loaded: these are popular items, then the others in the catalogue's order.",
    "pin_not_shown": "An item of `rules.pins` is hidden, excluded, unknown or comes twice, or its slot is not there.",
    "repeated_items": "Too few items are left that the user has not seen, so some were seen before.",
    "session_unavailable": "The user's history could not be read; the slate is that of somebody without one.",
    "unknown_candidates": "Some of `candidate_item_ids` are not in the catalogue.",
    "unknown_category": "Some of `filters.categories` are categories that no item has.",
    "unknown_feedback_type": "Some of `exclude_feedback_types` are not among the types of this service.",
    "unknown_property": "A property in `filters.where` or `rules` is one that no item has.",
}

# A text with its values in the schema, and not an enumeration: a client must understand the slates of a newer service.
SlateWarning = Annotated[str, WithJsonSchema({"type": "string", "enum": sorted(WARNINGS)})]
SlateWarnings = Annotated[
    list[SlateWarning],
    Field(description=" ".join(f"`{code}`: {meaning}" for code, meaning in WARNINGS.items())),
]
