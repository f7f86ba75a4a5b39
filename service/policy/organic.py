"""Likes that came by themselves, without an impression: what they teach.

Nobody knows what else the user saw, so a like stands beside items drawn at random: which one of them did this user
like (sampled softmax; Bengio & Senécal 2003)? Items are drawn uniformly, so that the answer tells how well an item is
liked and by whom, and anew whenever a like is learned from. Three things keep such rows from what impressions teach:
they compare items and so tell nothing of the level, they are no part of when sessions end, and they count less.

One of many is asked for, and not of each whether it was liked: there the scores of a user with clear taste, whose items
all are a little close, would have to stay low although only their order matters.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from service.policy.losses import MASKED_LOGIT
from service.policy.types import EMPTY_SLOT, Batch, Interaction, Transition, pack_states

N_OTHERS = 50  # items drawn at random beside a like
TRUST = 0.3  # of an impression's slot
COST = 1.5  # slots of impressions that a like counts as: N_OTHERS sure answers tell little more than a few open ones


def trust(batch: Batch) -> Tensor:
    """[B, 1] how much of an impression each row counts as; a weak like in part."""
    if batch.organic is None:
        return torch.ones(len(batch.discount), 1)
    return torch.where(batch.organic.unsqueeze(1), TRUST * batch.rewards[:, :1], 1.0)


def against_others(response: Tensor, batch: Batch) -> Tensor:
    """[B, K] logit of each slot against all that were drawn beside the like of its row: f - log sum exp f of those.

    Of the like it is log p / (1 - p), p its probability under softmax over the row; the others together are answered
    once at most. `response` f [B, K]; where nothing else was drawn the like is sure, and nothing is learned.
    """
    drawn = (batch.actions != EMPTY_SLOT) & (batch.rewards <= 0)
    return response - response.masked_fill(~drawn, MASKED_LOGIT).logsumexp(1, keepdim=True)


def centred(features: Tensor, response: Tensor, shown: Tensor) -> Tensor:
    """Features [B, K, P] without their mean over the row, in which each slot that is `shown` [B, K] counts as softmax
    over `response` [B, K] has it: what all of a row have in common says nothing of which one was liked."""
    likely = response.masked_fill(~shown, MASKED_LOGIT).softmax(1)
    return features - (likely.unsqueeze(2) * features).sum(1, keepdim=True)


def organic_transition(
    history: tuple[Interaction, ...], item: int, owner: int = 0, strength: float = 1.0
) -> Transition:
    """A like in the state `history` of its user, of a `strength` in (0, 1]."""
    return Transition(
        history=history,
        actions=(item,),
        rewards=(strength,),
        propensities=(1.0,),
        discount=1.0,
        next_history=history,
        owner=owner,
        organic=True,
    )


def organic_batch(
    histories: Sequence[Sequence[Interaction]],
    items: Sequence[int],
    max_history: int,
    strengths: Sequence[float] | None = None,
    owners: Sequence[int] | None = None,
) -> Batch:
    """Make what `organic_transition` makes of each of B likes, in the states `histories` [B] of their users."""
    actions = torch.tensor(items, dtype=torch.int64).unsqueeze(1)
    rewards = torch.ones(actions.shape) if strengths is None else torch.tensor(strengths).unsqueeze(1)
    states = pack_states(histories, max_history)
    return Batch(
        state=states,
        actions=actions,
        rewards=rewards,
        propensities=torch.ones(actions.shape),
        discount=torch.ones(len(actions)),
        next_state=states,
        turn=torch.zeros(len(actions), dtype=torch.int64),
        organic=torch.ones(len(actions), dtype=torch.bool),
        owner=None if owners is None else torch.tensor(owners, dtype=torch.int64),
    )


def with_others(batch: Batch, n_items: int, generator: torch.Generator) -> Batch:
    """The batch, its organic rows as slates of the like and `N_OTHERS` of `n_items` items, drawn anew each time.

    A slot whose item the user liked, now or before, is empty; so are those that this adds to other rows.
    """
    if batch.organic is None:
        return batch
    rows = torch.nonzero(batch.organic).squeeze(1)
    width = max(batch.actions.shape[1], 1 + N_OTHERS)
    added = (0, width - batch.actions.shape[1])
    actions, rewards, propensities = (
        functional.pad(part, added, value=value)
        for part, value in ((batch.actions, EMPTY_SLOT), (batch.rewards, 0.0), (batch.propensities, 1.0))
    )
    likes = actions[rows, :1]
    others = torch.randint(n_items, (len(rows), N_OTHERS), generator=generator)
    items, responses = batch.state[:2]
    liked = torch.where(responses[rows] > 0, items[rows], EMPTY_SLOT)
    likes_so_far = torch.cat([likes, liked], 1)
    others[(others.unsqueeze(2) == likes_so_far.unsqueeze(1)).any(2) | (likes == EMPTY_SLOT)] = EMPTY_SLOT
    actions[rows, 1 : 1 + N_OTHERS] = others
    return batch._replace(actions=actions, rewards=rewards, propensities=propensities)
