"""`pretrain` (iALP): a policy from a language model's preferences alone.

1. Distil: the network learns the policy that the reward model implies, softmax(logit r / T). T is the temperature at
   which the policy keeps the entropy asked for: a language model's taste is a guess, and users pay for certainty.
2. Interact, in rounds: the policy recommends to imagined users, and learns when they leave. Then the language model, if
   there is one, is asked about the states that this policy visits, the reward model is fitted again, and the policy is
   distilled again, on the states visited too.

What a language model says of single items leaves out that people tire of what is alike. So imagined users leave when a
slate reads like what they were just shown (ours): it is in interaction that the policy learns to vary.

Long optimisation against a model's taste over-fits it. Here nothing climbs: the actor follows from the critic
(`boltzmann`), which is fitted to the reward model, itself cautious where it is unsure. Of the rounds, the one that
earns most among those that rank held-out judgements as well as the first is kept.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from offline.datasets import Interactions
from offline.defaults import DISTIL_STEPS, ROUNDS, TARGET_ENTROPY
from offline.imagination import ImaginationConfig, as_policy_sees, interact
from offline.judgements import Question
from offline.preferences import Preference, Preferences
from offline.rewards import RewardConfig, RewardModel, interactions
from offline.states import Embeddings, StateConfig, sample_candidates, sample_states, states_from_interactions
from service.policy import losses
from service.policy.boltzmann import Boltzmann, BoltzmannConfig
from service.policy.networks import RARE, ItemScorer, NetworkConfig
from service.policy.sampling import sample_slate
from service.policy.text import TextProjection
from service.policy.types import Interaction, Response, States, pack_states, session_state


@dataclass(frozen=True)
class PretrainConfig:
    """All that pre-training depends on besides the judgements; saved in the snapshot's manifest."""

    seed: int = 0
    encoder: str = "minilm"
    network: NetworkConfig = field(default_factory=NetworkConfig)
    reward: RewardConfig = field(default_factory=RewardConfig)
    states: StateConfig = field(default_factory=StateConfig)
    target_entropy: float = TARGET_ENTROPY
    distil_states: int = 1024  # sampled once and gone through in batches
    distil_steps: int = DISTIL_STEPS
    batch_size: int = 64
    learning_rate: float = 2e-3
    stranger_share: float = 0.1  # of the states without any history
    rounds: int = ROUNDS
    imagination: ImaginationConfig = field(default_factory=ImaginationConfig)
    visited_share: float = 0.25  # of the states that later rounds distil on: those that the policy visited
    steps_a_round: int = 150  # in which it learns when users leave
    questions_a_round: int = 16  # states that the language model is asked about after each round
    tolerance: float = 0.05  # how much of the rank correlation interaction may cost
    holdout: float = 0.1  # share of judged states that only choose the round


@dataclass(frozen=True)
class Pretrained:
    """What came out, ready for a snapshot."""

    projection: TextProjection
    actor: ItemScorer  # and critic: one network
    reward: RewardModel
    report: dict[str, float]
    rounds: tuple[dict[str, float], ...]


Asker = Callable[[Sequence[Question]], Preferences]
Progress = Callable[[str, float], None]  # what is done, share of the whole in [0, 1]


class Pretraining:
    """One run; `run` does it all."""

    def __init__(
        self,
        item_ids: Sequence[str],
        embeddings: Embeddings,
        preferences: Preferences,
        config: PretrainConfig,
        ask: Asker | None = None,
        logs: Interactions | None = None,
        progress: Progress = lambda stage, share: None,
    ) -> None:
        """`embeddings` [A, TEXT_DIM]: of the items in order; `ask` puts questions, returns all preferences so far.

        `logs`: take histories from these observed users instead of making them up from text; nothing else of them is
        used.
        """
        self.item_ids, self.config = list(item_ids), config
        self.index = {item_id: row for row, item_id in enumerate(item_ids)}
        self._ask, self._logs, self._progress = ask, logs, progress
        self._rng = np.random.default_rng(config.seed)
        self._generator = torch.Generator().manual_seed(config.seed)
        torch.manual_seed(config.seed)
        self._embeddings = embeddings
        self.projection = TextProjection.fit(torch.from_numpy(embeddings), config.network.text_dim)
        self.text = self.projection(torch.from_numpy(embeddings))
        self._held_out: set[tuple[tuple[str, int], ...]] = set()
        self._fit_reward(preferences)
        self.actor = ItemScorer(config.network, self.text)

    def run(self) -> Pretrained:
        """Distil and interact; returns the best round's policy."""
        visited: list[tuple[tuple[int, float], ...]] = []
        rounds: list[dict[str, float]] = []
        best, kept = self._weights(), -1
        for number in range(self.config.rounds):
            report = {"round": float(number), **self._distil(visited, number)}
            report["imagined_reward"], visited = self._interact(number)
            rounds.append({**report, **self._judge()})
            good = rounds[-1]["held_out"] >= rounds[0]["held_out"] - self.config.tolerance
            if good and (kept < 0 or rounds[-1]["imagined_reward"] > rounds[kept]["imagined_reward"]):
                best, kept = self._weights(), number
            if self._ask is not None and number + 1 < self.config.rounds:
                self._fit_reward(self._ask(self._questions(visited)))
        self.actor.load_state_dict(best)
        report = {"kept_round": float(kept), **self._judge()}
        return Pretrained(self.projection, self.actor, self.reward, report, tuple(rounds))

    def _weights(self) -> dict[str, Tensor]:
        return copy.deepcopy(self.actor.state_dict())

    # -- the reward model ------------------------------------------------------------------------------------------

    def _fit_reward(self, preferences: Preferences) -> None:
        """Fit to all judgements but those of held-out states, which stay held out for good."""
        known = [p for p in preferences.personal if p.judgement.item_id in self.index]
        if not self._held_out:
            states = sorted({p.judgement.history for p in known})
            chosen = self._rng.permutation(len(states))[: math.ceil(self.config.holdout * len(states))]
            self._held_out = {states[i] for i in chosen}
        training = [p for p in known if p.judgement.history not in self._held_out]
        self._test = [p for p in known if p.judgement.history in self._held_out]
        priors = {item_id: prior for item_id, prior in preferences.priors.items() if item_id in self.index}
        self.reward = RewardModel.fit(priors, training, self.item_ids, self.text, self.config.reward)

    def _judge(self) -> dict[str, float]:
        """Rank correlation of f with held-out judgements, and the policy's entropy: means over states."""
        by_state: dict[tuple[tuple[str, int], ...], list[Preference]] = {}
        for preference in self._test:
            by_state.setdefault(preference.judgement.history, []).append(preference)
        reward = self.config.reward
        correlations = []
        entropies = []
        for history, judged in by_state.items():
            states = pack_states([interactions(history, self.index)], self.config.network.max_history)
            with torch.no_grad():
                entropies.append(float(losses.entropy(losses.mask_history(self.actor(states), states))))
                table = self.actor.table()
                encoded = self.actor.encode(states, table)
                response = self.actor.response(encoded, table, self.actor.closeness(encoded, table))
            scores = response[0, [self.index[p.judgement.item_id] for p in judged]].numpy()
            wanted = [reward.prior_weight * p.prior_z + reward.personal_weight * p.personal_z for p in judged]
            if len(judged) > 2:
                correlations.append(rank_correlation(scores, np.array(wanted)))
        return {
            "held_out": float(np.mean(correlations)) if correlations else 0.0,
            "entropy": float(np.mean(entropies)) if entropies else 0.0,
        }

    # -- distillation ----------------------------------------------------------------------------------------------

    def _sample_states(self, n: int) -> States:
        prior = self.reward.prior.numpy().astype(np.float64)
        if self._logs is None:
            sampled = sample_states(self._embeddings, prior, n, self.config.states, self._rng)
        else:
            sampled = states_from_interactions(self._logs, n, self.config.states, self._rng)
        strangers = self._rng.random(n) < self.config.stranger_share
        # What was shown in vain says nothing to the reward model; the networks must learn that from the start.
        well_known = np.exp(prior) / np.exp(prior).sum()
        histories = []
        for state, stranger in zip(sampled, strangers, strict=True):
            responses = [] if stranger else [(item, float(response)) for item, response in state]
            n_shown = int(self._rng.integers(self.config.imagination.shown + 1))
            shown = self._rng.choice(len(prior), size=min(n_shown, len(prior)), p=well_known).tolist()
            histories.append(as_policy_sees(session_state(responses, shown, self.config.imagination.shown)))
        return pack_states(histories, self.config.network.max_history)

    def _distil(self, visited: Sequence[tuple[tuple[int, float], ...]], number: int) -> dict[str, float]:
        """Regress f on the reward model's logits, scaled so that the policy has the entropy asked for."""
        config = self.config
        pool = self._pool(visited)
        logits = self._logits(pool)
        softness = self._temperature(logits)
        wanted = (logits - logits.mean()) * config.network.temperature / softness
        if number == 0:
            self._start_from_prior(config.network.temperature / softness)
        # Imagined users tell how texts relate; item vectors stay the texts. What else items are, real users tell.
        told = ("text_bias.weight", "id_bias", "mixing", "gain", "level")
        optimizer = torch.optim.Adam([dict(self.actor.named_parameters())[name] for name in told], config.learning_rate)
        schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.1, max(1, config.distil_steps))
        divergence = torch.zeros(())
        for step in range(config.distil_steps):
            rows = torch.randint(len(wanted), (config.batch_size,), generator=self._generator)
            states, target = States(*(part[rows] for part in pool)), wanted[rows]
            table = self.actor.table()
            encoded = self.actor.encode(states, table)
            response = self.actor.response(encoded, table, self.actor.closeness(encoded, table))
            policies = (losses.mask_history(f / config.network.temperature, states) for f in (target, response))
            divergence = losses.kl_divergence(*policies).mean()
            optimizer.zero_grad(set_to_none=True)
            (divergence + functional.mse_loss(response, target + RARE)).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
            done = (number + 0.8 * (step + 1) / config.distil_steps) / config.rounds
            self._progress(f"distilling, round {number + 1}", done)
        return {"softness": softness, "distil_kl": divergence.item()}

    def _pool(self, visited: Sequence[tuple[tuple[int, float], ...]]) -> States:
        """States to distil on; some of those that the policy visited, once there are any."""
        n_visited = min(len(visited), round(self.config.visited_share * self.config.distil_states))
        sampled = self._sample_states(self.config.distil_states - n_visited)
        chosen = [visited[i] for i in self._rng.permutation(len(visited))[:n_visited]]
        own = pack_states([as_policy_sees(state) for state in chosen], self.config.network.max_history)
        return States(*(torch.cat(parts) for parts in zip(sampled, own, strict=True)))

    def _logits(self, states: States) -> Tensor:
        """logit r of many states [n, A], a batch at a time."""
        size = self.config.batch_size
        batches = [
            self.reward.logits(States(*(part[start : start + size] for part in states)))[0]
            for start in range(0, len(states.lengths), size)
        ]
        return torch.cat(batches)

    def _temperature(self, logits: Tensor) -> float:
        """The temperature at which softmax(logits / temperature) has the target entropy; bisection in log space."""
        logits = logits[:: max(1, len(logits) // 64)]
        wanted = self.config.target_entropy * math.log(len(self.item_ids))
        low, high = math.log(1e-3), math.log(1e2)
        for _ in range(50):
            middle = (low + high) / 2
            if float(losses.entropy(logits / math.exp(middle)).mean()) > wanted:
                high = middle
            else:
                low = middle
        return math.exp((low + high) / 2)

    def _start_from_prior(self, scale: float) -> None:
        """Write the items' priors into the biases: what the text tells as its slope, the rest by item."""
        with torch.no_grad():
            scaled = self.reward.config.prior_weight * self.reward.prior * scale
            ridge = self.text.T @ self.text + 10.0 * torch.eye(self.text.shape[1])
            slope = torch.linalg.solve(ridge, self.text.T @ (scaled - scaled.mean()))
            self.actor.text_bias.weight.copy_(slope.unsqueeze(0))
            self.actor.id_bias.copy_(scaled - scaled.mean() - self.text @ slope)

    # -- interaction -----------------------------------------------------------------------------------------------

    def _interact(self, number: int) -> tuple[float, list[tuple[tuple[int, float], ...]]]:
        """One round with imagined users; returns the mean reward of a session after it and the states visited."""
        config = self.config
        imagined = interact(self.actor, self.reward, config.imagination, self._rng)
        learner = Boltzmann(self.actor, BoltzmannConfig())
        learner.count_ends(imagined.replay.latest(len(imagined.replay)))
        optimizer = torch.optim.Adam([self.actor.leave], lr=0.05)
        for _ in range(config.steps_a_round):
            _, leave_loss = learner.loss(imagined.replay.sample(learner.config.batch_size, self._generator))
            optimizer.zero_grad(set_to_none=True)
            leave_loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        learner.renew_baseline()
        again = interact(self.actor, self.reward, config.imagination, self._rng)
        self._progress(f"interacting, round {number + 1}", (number + 1) / config.rounds)
        return again.reward, [*imagined.visited, *again.visited]

    def _questions(self, visited: Sequence[tuple[tuple[int, float], ...]]) -> list[Question]:
        """Questions about some of the states visited; half of the candidates are what the policy itself would show."""
        if not visited or self.config.questions_a_round == 0:
            return []
        prior = self.reward.prior.numpy().astype(np.float64)
        chosen = self._rng.permutation(len(visited))[: self.config.questions_a_round]
        questions = []
        for number in chosen:
            state = tuple((item, 1) for item, _ in visited[number][-self.config.states.max_history :])
            history = tuple(Interaction(item, Response.POSITIVE) for item, _ in state)
            states = pack_states([history], self.config.network.max_history)
            with torch.no_grad():
                logits = losses.mask_history(self.actor(states), states)[0].double()
            half = self.config.states.candidates // 2
            own = sample_slate(torch.softmax(logits, -1).numpy(), half, self._rng).items.tolist()
            others = sample_candidates(state, self._embeddings, prior, self.config.states, self._rng)
            candidates = list(dict.fromkeys([*own, *others]))[: self.config.states.candidates]
            asked = tuple((self.item_ids[item], response) for item, response in state)
            questions.append(Question(asked, tuple(self.item_ids[i] for i in candidates)))
        return questions


def rank_correlation(a: npt.NDArray[np.floating], b: npt.NDArray[np.floating]) -> float:
    """Spearman's rank correlation of two vectors [n] without ties; 0 if either is constant."""
    ranks = [np.argsort(np.argsort(values)).astype(np.float64) for values in (a, b)]
    if np.ptp(a) == 0 or np.ptp(b) == 0:
        return 0.0
    return float(np.corrcoef(ranks[0], ranks[1])[0, 1])
