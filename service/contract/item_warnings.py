"""Warnings that a put item may come with, and what each means."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, WithJsonSchema

ITEM_WARNINGS = {
    "same_vector": "The policy's text encoder does not know all of the text, and reads it like the different text of "
    "another item: only what users do can tell them apart.",
    "unread_text": "The policy's text encoder knows less than half of the text.",
}

# A text with its values in the schema, as in `slate_warnings`.
ItemWarning = Annotated[str, WithJsonSchema({"type": "string", "enum": sorted(ITEM_WARNINGS)})]
_MEANINGS = " ".join(f"`{code}`: {meaning}" for code, meaning in ITEM_WARNINGS.items())
_WHEN = "Of a text that is new or has changed."
ItemWarnings = Annotated[list[ItemWarning], Field(description=f"{_WHEN} {_MEANINGS}")]
ItemWarningCounts = Annotated[
    dict[ItemWarning, int], Field(description=f"How many items came with a warning. {_WHEN} {_MEANINGS}")
]
