"""A ring of closed transitions that is sampled uniformly; its whole state is tensors, so it fits in a checkpoint."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from service.policy.co_likes import Likes
from service.policy.types import (
    EMPTY_SLOT,
    MAX_NAMED,
    Batch,
    Features,
    Interaction,
    States,
    Transition,
    WithContext,
    unpack_contexts,
)

Block = dict[str, npt.NDArray[np.generic]]
_EMPTY = {"actions": EMPTY_SLOT, "propensities": 1.0}  # all else is 0

_USUAL = 5.0


class Replay:
    """The last `capacity` transitions."""

    def __init__(self, capacity: int, max_history: int, slate_size: int) -> None:
        def history() -> Block:
            return {
                "items": np.zeros((capacity, max_history), np.int32),
                "responses": np.zeros((capacity, max_history), np.float32),
                "lengths": np.zeros(capacity, np.int32),
            }

        self._blocks: dict[str, Block] = {
            "state": history(),
            "next": history(),
            "slots": {
                "actions": np.full((capacity, slate_size), EMPTY_SLOT, np.int32),
                "rewards": np.zeros((capacity, slate_size), np.float32),
                "propensities": np.ones((capacity, slate_size), np.float32),
                "discount": np.zeros(capacity, np.float32),
                "turn": np.zeros(capacity, np.int32),
                "organic": np.zeros(capacity, np.bool_),
            },
            "whose": {"owner": np.zeros(capacity, np.int64)},
            "named": {"only": np.zeros((capacity, MAX_NAMED), np.int32)},  # items plus 1: a deployment may have none
        }
        # What contexts say, from the first that says anything on; wide enough for the longest.
        self._features: Block = {"rows": np.zeros((0, 0), np.int16), "strengths": np.zeros((0, 0), np.float32)}
        self.capacity, self.max_history, self.slate_size = capacity, max_history, slate_size
        self.added = 0

    def __len__(self) -> int:
        return min(self.added, self.capacity)

    def add(self, transition: Transition) -> None:
        """Append one transition; the oldest gives way when full. Slots beyond `slate_size` are not kept."""
        row = self.added % self.capacity
        self._put_history(self._blocks["state"], row, transition.history)
        self._put_history(self._blocks["next"], row, transition.next_history)
        slots = self._blocks["slots"]
        k = min(len(transition.actions), self.slate_size)
        slots["actions"][row], slots["rewards"][row], slots["propensities"][row] = EMPTY_SLOT, 0.0, 1.0
        slots["actions"][row, :k] = transition.actions[:k]
        slots["rewards"][row, :k] = transition.rewards[:k]
        slots["propensities"][row, :k] = transition.propensities[:k]
        slots["discount"][row] = transition.discount
        slots["turn"][row] = transition.turn
        slots["organic"][row] = transition.organic
        self._blocks["whose"]["owner"][row] = transition.owner
        only = self._blocks["named"]["only"]
        only[row] = 0
        only[row, : len(transition.only)] = np.array(transition.only, np.int32) + 1
        self._put_features(row, transition.context)
        self.added += 1

    def forget(self, owner: int) -> int:
        """Empty the transitions of an owner: they stay as rows without history and items. Returns how many."""
        rows = np.flatnonzero(self._blocks["whose"]["owner"][: len(self)] == owner)
        for block in (*self._blocks.values(), self._features):
            for name, values in block.items():
                if len(values):
                    values[rows] = _EMPTY.get(name, 0)
        return len(rows)

    def rename(self, owner: int, by: int) -> None:
        """Change an owner's number."""
        owners = self._blocks["whose"]["owner"]
        owners[owners == owner] = by

    def take_back(self, owner: int, item: int) -> None:
        """Turn an owner's likes of an item into silence: further steps on these transitions do not learn them."""
        slots = self._blocks["slots"]
        rows = np.flatnonzero(self._blocks["whose"]["owner"][: len(self)] == owner)
        liked = (slots["actions"][rows] == item) & np.greater(slots["rewards"][rows], 0)
        slots["rewards"][rows] = np.where(liked, 0, slots["rewards"][rows])

    def _put_history(self, block: Block, row: int, history: tuple[Interaction, ...]) -> None:
        recent = history[-self.max_history :]
        block["items"][row], block["responses"][row], block["lengths"][row] = 0, 0, len(recent)
        block["items"][row, : len(recent)] = [i.item for i in recent]
        block["responses"][row, : len(recent)] = [i.response for i in recent]

    def _put_features(self, row: int, features: Features) -> None:
        if len(features) > self._features["rows"].shape[1]:
            self._widen(2 * len(features))
        for name, of in zip(("rows", "strengths"), zip(*features, strict=True) if features else ((), ()), strict=True):
            self._features[name][row : row + 1] = 0
            if of:
                self._features[name][row, : len(of)] = of

    def _widen(self, width: int) -> None:
        """Make room for contexts of so many features."""
        for name, values in self._features.items():
            wider = np.zeros((self.capacity, width), values.dtype)
            wider[: len(values), : values.shape[1]] = values
            self._features[name] = wider

    def extend(self, batch: Batch) -> None:
        """Append B transitions at once, B <= capacity; histories and slates of at most our lengths."""
        n = len(batch.discount)
        assert n <= self.capacity
        rows = np.arange(self.added, self.added + n) % self.capacity
        for block, states in ((self._blocks["state"], batch.state), (self._blocks["next"], batch.next_state)):
            width = states.items.shape[1]
            for name, padded in (("items", states.items), ("responses", states.responses)):
                block[name][rows] = 0
                block[name][rows, :width] = padded.numpy()
            block["lengths"][rows] = states.lengths.numpy()
        slots, k = self._blocks["slots"], batch.actions.shape[1]
        for name, empty in (("actions", EMPTY_SLOT), ("rewards", 0.0), ("propensities", 1.0)):
            slots[name][rows] = empty
            slots[name][rows, :k] = getattr(batch, name).numpy()
        slots["discount"][rows] = batch.discount.numpy()
        slots["turn"][rows] = batch.turn.numpy()
        slots["organic"][rows] = False if batch.organic is None else batch.organic.numpy()
        self._blocks["whose"]["owner"][rows] = 0 if batch.owner is None else batch.owner.numpy()
        only = self._blocks["named"]["only"]
        only[rows] = 0
        if batch.only is not None:
            only[rows, : batch.only.shape[1]] = batch.only.numpy() + 1
        for row, features in zip(rows.tolist(), unpack_contexts(batch.state), strict=True):
            self._put_features(row, features)
        self.added += n

    def rows(self, index: npt.NDArray[np.int64]) -> Batch:
        """The transitions at `index` [B]."""

        def states(name: str) -> States:
            block = self._blocks[name]
            items, responses, lengths = (
                torch.from_numpy(block[key][index]) for key in ("items", "responses", "lengths")
            )
            return States(items.long(), responses, lengths.long())

        context = None
        if (strengths := self._features["strengths"]).size and (used := _n_used(strengths[index])):
            rows = self._features["rows"][index, :used].astype(np.int64)
            context = WithContext(torch.from_numpy(rows), torch.from_numpy(strengths[index, :used]))
        slots = {name: torch.from_numpy(values[index]) for name, values in self._blocks["slots"].items()}
        only = self._blocks["named"]["only"][index]
        return Batch(
            state=states("state")._replace(context=context),
            actions=slots["actions"].long(),
            rewards=slots["rewards"],
            propensities=slots["propensities"],
            discount=slots["discount"],
            next_state=states("next"),
            turn=slots["turn"].long(),
            only=torch.from_numpy(only).long() - 1 if only.any() else None,
            organic=slots["organic"] if slots["organic"].any() else None,
        )

    def sample(self, batch_size: int, generator: torch.Generator) -> Batch:
        """`batch_size` transitions drawn uniformly with replacement; the replay must not be empty."""
        assert self.added > 0, "nothing to sample"
        return self.rows(torch.randint(len(self), (batch_size,), generator=generator).numpy())

    def latest(self, n: int) -> Batch:
        """The last min(n, len) transitions, oldest first."""
        n = min(n, len(self))
        return self.rows(np.arange(self.added - n, self.added) % self.capacity)

    def latest_shown(self, n: int) -> Batch:
        """The last impressions, at most n, oldest first: no organic rows, and none that were emptied."""
        rows = np.arange(self.added - len(self), self.added) % self.capacity
        slots = self._blocks["slots"]
        is_shown = np.logical_not(slots["organic"][rows]) & (slots["actions"][rows, 0] != EMPTY_SLOT)
        rows = rows[is_shown]
        return self.rows(rows[max(0, len(rows) - n) :])

    def likes(self) -> Likes:
        """Likes without an impression that are held and are somebody's, oldest first."""
        rows = np.arange(self.added - len(self), self.added) % self.capacity
        slots, owners = self._blocks["slots"], self._blocks["whose"]["owner"]
        is_like = slots["organic"][rows] & (owners[rows] != 0) & np.greater(slots["rewards"][rows, 0], 0)
        rows = rows[is_like]
        items, strengths = slots["actions"][rows, 0], slots["rewards"][rows, 0]
        return Likes(owners[rows].astype(np.int64), items.astype(np.int64), strengths.astype(np.float64))

    def rates(self, n_items: int) -> npt.NDArray[np.float64]:
        """Mean reward of each item [A] over the slots held that showed it, drawn towards the mean of all items as by
        `_USUAL` slots that earned that; likes without an impression do not count."""
        slots = self._blocks["slots"]
        actions, rewards = (slots[name][: len(self)] for name in ("actions", "rewards"))
        shown = (actions != EMPTY_SLOT) & np.logical_not(slots["organic"][: len(self)])[:, np.newaxis]
        counts = np.bincount(actions[shown], minlength=n_items)
        sums = np.bincount(actions[shown], rewards[shown], minlength=n_items)
        usual = (sums / np.maximum(counts, 1))[counts > 0].mean() if counts.any() else 0.0
        return np.asarray((sums + _USUAL * usual) / (counts + _USUAL))

    def state_dict(self) -> dict[str, Tensor]:
        """All transitions held, and how many were ever added."""
        held = len(self)
        state = {
            f"{block}.{name}": torch.from_numpy(_used(name, values[:held]).copy())
            for block, columns in self._blocks.items()
            for name, values in columns.items()
        }
        if used := _n_used(self._features["strengths"][:held]):
            for name, values in self._features.items():
                state[f"features.{name}"] = torch.from_numpy(values[:held, :used].copy())
        return state | {"added": torch.tensor(self.added)}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restore what `state_dict` gave, into a replay of the same sizes."""
        self.added = int(state["added"])
        for block, columns in self._blocks.items():
            for name, values in columns.items():
                saved = state[f"{block}.{name}"].numpy()
                values[(slice(len(self)), *map(slice, saved.shape[1:]))] = saved
        self._features = {name: values[:0, :0] for name, values in self._features.items()}
        if "features.rows" in state:
            self._widen(state["features.rows"].shape[1])
            for name, values in self._features.items():
                values[: len(self)] = state[f"features.{name}"].numpy()


def _used(name: str, values: npt.NDArray[np.generic]) -> npt.NDArray[np.generic]:
    """Cut off what is not worth keeping: of `only` the columns after the last that is not empty."""
    if name != "only":
        return values
    return values[:, : _n_used(values)]


def _n_used(values: npt.NDArray[np.generic]) -> int:
    """Return how many columns there are up to the last that is not empty."""
    return int(np.flatnonzero(values.any(0)).max(initial=-1)) + 1
