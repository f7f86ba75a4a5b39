"""A session as text: the mean of what it liked, of what it disliked, and of what it ignored, whatever the strength."""

from __future__ import annotations

from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from service.policy.types import Response, States

PROFILES = (Response.POSITIVE, Response.NEGATIVE, Response.IGNORED)
Floats = TypeVar("Floats", bound=np.floating[Any])


def session_profiles(states: States, text: npt.NDArray[Floats]) -> npt.NDArray[Floats]:
    """Mean text of each session's liked, disliked and ignored items, [B, 3, d]; zeros where there are none."""
    items, responses = states.items.numpy(), states.responses.numpy()
    profiles = np.zeros((len(items), len(PROFILES), text.shape[1]), text.dtype)
    present = np.arange(items.shape[1]) < states.lengths.numpy()[:, np.newaxis]
    for c, response in enumerate(PROFILES):
        chosen = (present & (np.sign(responses) == response)).astype(text.dtype)
        weights = chosen / np.maximum(chosen.sum(1, keepdims=True), text.dtype.type(1))
        for column in range(items.shape[1]):
            profiles[:, c] += weights[:, column, np.newaxis] * text[items[:, column]]
    return profiles
