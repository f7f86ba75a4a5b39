"""Pre-training learns the judge's taste, keeps its entropy, asks about states it visits, and is reproducible."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from offline.imagination import ImaginationConfig, staying
from offline.rewards import RewardConfig
from policy_examples import responses

from offline.judgements import Judgement, Question
from offline.preferences import Calibration, Preference, Preferences, Prior
from offline.pretrain import PretrainConfig, Pretraining, rank_correlation
from service.policy import losses
from service.policy.networks import NetworkConfig
from service.policy.text import TEXT_DIM
from service.policy.types import Interaction, Response, pack_states

N_ITEMS = 60
IDS = [f"item-{n}" for n in range(N_ITEMS)]
CONFIG = PretrainConfig(
    network=NetworkConfig(dim=16, text_dim=8, max_history=30),
    reward=RewardConfig(personal_weight=1.0),
    distil_states=128,
    distil_steps=150,
    rounds=2,
    imagination=ImaginationConfig(sessions=30, turns=4),
    steps_a_round=20,
    questions_a_round=5,
)


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def embeddings() -> np.ndarray:
    """Three groups of items whose texts are alike."""
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(3, TEXT_DIM))
    rows = centres[np.arange(N_ITEMS) % 3] + 0.7 * rng.normal(size=(N_ITEMS, TEXT_DIM))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def judged(history: tuple[tuple[str, int], ...], item: str) -> Preference:
    """Who liked a group likes that group."""
    groups = [IDS.index(i) % 3 for i, _ in history]
    z = 1.5 if IDS.index(item) % 3 in groups else -0.75
    return Preference(Judgement("k", history, item, "likelihood", "m", "1", 0.0, 1), 0.0, z, prior_z(item), z)


def prior_z(item: str) -> float:
    """Early items are better known."""
    return 2 - 4 * IDS.index(item) / N_ITEMS


def preferences(extra: Sequence[Question] = ()) -> Preferences:
    rng = np.random.default_rng(1)
    priors = {item: Prior(0.0, prior_z(item)) for item in IDS}
    histories = [((IDS[int(rng.integers(N_ITEMS))], 1),) for _ in range(40)]
    personal = [judged(h, IDS[int(i)]) for h in histories for i in rng.choice(N_ITEMS, 12, replace=False)]
    personal += [judged(q.history, item) for q in extra for item in q.candidates]
    return Preferences(priors, tuple(personal), Calibration(0.5, 0.0, 1.0, 0.0, 1.0))


def test_it_learns_the_judges_taste_and_aims_at_the_entropy() -> None:
    training = Pretraining(IDS, embeddings(), preferences(), CONFIG)
    result = training.run()
    assert result.report["held_out"] > 0.7
    wanted = CONFIG.target_entropy * math.log(N_ITEMS)
    assert abs(result.report["entropy"] - wanted) < 0.1 * math.log(N_ITEMS)
    states = pack_states([(), (Interaction(3, Response.POSITIVE),)], 30)
    with torch.no_grad():
        f = responses(result.actor, states)
        strangers = result.actor(states)[0]
    assert rank_correlation(strangers.numpy(), -np.arange(N_ITEMS)) > 0.8  # a stranger gets the prior
    pi = torch.softmax(losses.mask_history(f / CONFIG.network.temperature, states), -1)
    share = [pi[row, [n for n in range(N_ITEMS) if n % 3 == 0]].sum().item() for row in (0, 1)]
    assert share[1] > share[0] + 0.1  # who liked item 3 is thought to like its group


def test_imagined_users_who_tire_teach_the_policy_to_vary() -> None:
    learned = []
    for boredom in (0.0, 1.0):
        imagination = replace(CONFIG.imagination, boredom=boredom)
        config = replace(CONFIG, imagination=imagination, distil_steps=20, rounds=1, steps_a_round=150)
        learned.append(Pretraining(IDS, embeddings(), preferences(), config).run().actor)
    patient, tiring = (actor.leave.detach().numpy() for actor in learned)
    assert tiring[1] > patient[1] + 1.0  # a copy of what was shown costs more of them
    assert tiring.sum() > patient.sum() + 1.0


def test_the_same_seed_gives_the_same_policy() -> None:
    small = replace(CONFIG, distil_steps=20, rounds=1)
    runs = [Pretraining(IDS, embeddings(), preferences(), small).run() for _ in range(2)]
    for name, tensor in runs[0].actor.state_dict().items():
        assert torch.equal(tensor, runs[1].actor.state_dict()[name]), name
    other = Pretraining(IDS, embeddings(), preferences(), replace(small, seed=1)).run()
    assert not torch.equal(other.actor.id_bias, runs[0].actor.id_bias)


def test_it_asks_about_states_it_visits_and_learns_from_the_answers() -> None:
    asked: list[Question] = []

    def ask(questions: Sequence[Question]) -> Preferences:
        asked.extend(questions)
        return preferences(asked)

    Pretraining(IDS, embeddings(), preferences(), replace(CONFIG, distil_steps=20), ask=ask).run()
    assert len(asked) == CONFIG.questions_a_round  # after the first of two rounds
    for question in asked:
        assert question.history and len(set(question.candidates)) == len(question.candidates)
        assert not {item for item, _ in question.history} & set(question.candidates)


class Scripted(Pretraining):
    """Rounds whose rewards and rank correlations are known beforehand; each leaves its number in the weights."""

    def script(self, rewards: Sequence[float], held_out: Sequence[float]) -> Pretraining:
        self._rewards, self._ranks = rewards, iter([*held_out, 0.0])
        return self

    def _distil(self, visited: Sequence[tuple[tuple[int, float], ...]], number: int) -> dict[str, float]:
        with torch.no_grad():
            self.actor.level.fill_(float(number))
        return {}

    def _interact(self, number: int) -> tuple[float, list[tuple[tuple[int, float], ...]]]:
        return self._rewards[number], []

    def _judge(self) -> dict[str, float]:
        return {"held_out": next(self._ranks)}


@pytest.mark.parametrize(
    ("rewards", "held_out", "kept"),
    [
        ((1.0, 2.0, 3.0), (0.8, 0.78, 0.9), 2),  # earns most
        ((1.0, 2.0, 3.0), (0.8, 0.78, 0.7), 1),  # the last forgot the judgements
        ((1.0, 2.0, 3.0), (0.8, 0.7, 0.7), 0),  # both did
        ((2.0, 1.0, 2.0), (0.8, 0.9, 0.8), 0),  # nothing earns more than the first
    ],
)
def test_the_round_that_earns_most_and_has_not_forgotten_is_kept(
    rewards: Sequence[float], held_out: Sequence[float], kept: int
) -> None:
    config = replace(CONFIG, rounds=3, tolerance=0.05)
    result = Scripted(IDS, embeddings(), preferences(), config).script(rewards, held_out).run()
    assert result.report["kept_round"] == kept
    assert result.actor.level.tolist() == [kept] * 3
    assert [r["imagined_reward"] for r in result.rounds] == list(rewards)


def test_rank_correlation_oracle() -> None:
    a = np.array([3.0, 1.0, 2.0, 5.0])
    assert rank_correlation(a, a**3) == pytest.approx(1.0)
    assert rank_correlation(a, -a) == pytest.approx(-1.0)
    assert rank_correlation(a, np.array([1.0, 2.0, 3.0, 4.0])) == pytest.approx(0.4)
    assert rank_correlation(a, np.zeros(4)) == 0.0


def test_staying_oracle() -> None:
    text = torch.tensor([[1.0, 0.0], [0.6, 0.8], [0.0, 1.0], [-1.0, 0.0]])
    slate, config = np.array([1, 2, 3]), ImaginationConfig(boredom=0.5, boredom_power=2.0)
    # nearest of (0): cosines 0.6, 0.0 and -1.0 (counted as 0)
    assert staying(text, slate, [0], config) == pytest.approx(1 - 0.5 * 0.36)
    # nearest of (0, 2): 0.8, 1.0, 0.0
    assert staying(text, slate, [0, 2], config) == pytest.approx((1 - 0.5 * 0.64) * 0.5)
    assert staying(text, slate, [], config) == 1.0
    assert staying(text, np.array([0]), [0], ImaginationConfig(boredom=1.0)) == 0.0
