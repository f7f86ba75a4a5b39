"""A small data set with a truth, in the work folder of an experiment, and the files that describe experiments on it."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from offline.datasets import Dataset, Interactions, Item, Scenario, save_dataset

N_ITEMS, N_USERS, N_TOPICS = 40, 60, 4
RULES = "{ slate_size = 3, max_turn = 4, leave_quantile = 0.02 }"


def toy_dataset(truth: int = 0) -> Dataset:
    """Items of four topics; each user likes one of them. `truth` draws who likes what: the texts stay the same."""
    rng = np.random.default_rng(truth)
    items = tuple(
        Item(f"i{i}", f"thing {i} of topic {i % N_TOPICS}", (f"topic {i % N_TOPICS}",)) for i in range(N_ITEMS)
    )
    taste = rng.integers(N_TOPICS, size=N_USERS)
    likes = rng.random((N_USERS, N_ITEMS)) < np.where(taste[:, None] == np.arange(N_ITEMS) % N_TOPICS, 0.8, 0.05)
    user, item = np.nonzero(likes)
    interactions = Interactions(
        user.astype(np.int32),
        item.astype(np.int32),
        np.ones(len(user), np.float32),
        np.ones(len(user), np.bool_),
        np.arange(len(user), dtype=np.int64),
        N_USERS,
    )
    return Dataset("toy", Scenario(), items, interactions, ())


def toy_embeddings() -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    """Texts of one topic are close."""
    rng = np.random.default_rng(9)
    topics = rng.normal(size=(N_TOPICS, 384))
    rows = topics[np.arange(N_ITEMS) % N_TOPICS] + 0.5 * rng.normal(size=(N_ITEMS, 384))
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), np.float32)


def prepare(work: Path, truth: int = 0) -> Path:
    """The data set `toy` where the experiment looks for it; returns the work folder."""
    save_dataset(toy_dataset(truth), work / "toy" / "dataset")
    np.save(work / "toy" / "embeddings.npy", toy_embeddings())
    return work


def experiments_file(path: Path, methods: str, sessions: int = 200, seeds: int = 2) -> Path:
    """A file with the environment `toy`, judges `text` and `fake`, a prior of each, and the methods given."""
    path.write_text(f"""
[protocol]
sessions = {sessions}
seeds = {seeds}
concurrent = 50
[environments.toy]
title = "Toy"
source = "movielens"
rules = {RULES}
[judges.text]
kind = "text"
states = 12
[judges.fake]
states = 12
[priors.text]
title = "texts"
judge = "text"
[priors.fake]
title = "a model"
judge = "fake"
{methods}
""")
    return path


FAST_METHODS = """
[methods.random]
title = "Random"
kind = "random"
group = "baseline"
[methods.popularity]
title = "Popularity"
kind = "popularity"
group = "baseline"
[methods.oracle]
title = "Oracle"
kind = "oracle"
group = "ceiling"
sessions = 100
"""

# With every kind of knowledge that a method may start from.
LEARNING_METHODS = """
[methods.linucb]
title = "LinUCB"
kind = "linucb"
group = "baseline"
[methods.sb3_a2c]
title = "A2C"
kind = "sb3_a2c"
group = "baseline"
[methods.a2c]
title = "A2C, ours"
kind = "learned"
group = "learner"
options = { learner = "a2c" }
[methods.boltzmann]
title = "Boltzmann"
kind = "learned"
group = "learner"
[methods.frozen]
title = "iALP"
kind = "learned"
group = "ialp"
prior = "fake"
options = { variant = "frozen" }
[methods.ft]
title = "A-iALP_ft"
kind = "learned"
group = "ialp"
prior = "fake"
options = { variant = "ft" }
[methods.ap]
title = "A-iALP_ap"
kind = "learned"
group = "ialp"
prior = "text"
options = { variant = "ap" }
"""
