"""`pretrain` (iALP): a policy from a language model's preferences alone.

1. Distil: the actor learns the policy that the reward model implies, softmax(logit r / temperature), and the critic its
   rewards. The temperature is the one at which the policy keeps the entropy that online learning will aim at.
2. Interact, in rounds: the policy recommends to imagined users who respond by the reward model; actor and critic learn
   from what happens (`mac`, tied to the distilled policy). Then the language model, if there is one, is asked about the
   states that this policy visits, and the reward model is fitted again.

What a language model says of single items leaves out that people tire of what is alike. So imagined users leave when a
slate reads like what they were just shown (ours): it is in interaction that the policy learns to vary.

Long optimisation against a model's taste over-fits it. So the actor is anchored to the distilled policy (KL), rewards
are cautious where the reward model is unsure, and of the rounds the one that earns most among those that still rank
held-out judgements as well as the distilled policy did is kept.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from offline.datasets import Interactions
from offline.imagination import ImaginationConfig, as_policy_sees, interact
from offline.judgements import Question
from offline.preferences import Preference, Preferences
from offline.rewards import RewardConfig, RewardModel, interactions
from offline.states import Embeddings, StateConfig, sample_candidates, sample_states, states_from_interactions
from service.policy import losses
from service.policy.factory import configured
from service.policy.mac import MAC, MACConfig
from service.policy.networks import ItemScorer, NetworkConfig
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
    target_entropy: float = 0.45  # of the policy, as a share of log(number of items)
    distil_states: int = 1024  # sampled once and gone through in batches
    distil_steps: int = 400
    batch_size: int = 64
    learning_rate: float = 2e-3
    stranger_share: float = 0.1  # of the states without any history
    rounds: int = 2
    imagination: ImaginationConfig = field(default_factory=ImaginationConfig)
    steps_a_round: int = 150
    questions_a_round: int = 16  # states that the language model is asked about after each round
    anchor_weight: float = 0.01
    mac: dict[str, float] = field(default_factory=dict)  # overrides of MACConfig
    tolerance: float = 0.05  # how much of the rank correlation interaction may cost
    holdout: float = 0.1  # share of judged states that only choose the round


@dataclass(frozen=True)
class Pretrained:
    """What came out, ready for a snapshot."""

    projection: TextProjection
    actor: ItemScorer
    critic: ItemScorer
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
        self.critic = ItemScorer(config.network, self.text)

    def run(self) -> Pretrained:
        """Distil, then interact; returns the best round's policy."""
        report = self._distil()
        anchor = copy.deepcopy(self.actor).requires_grad_(False)
        report |= {f"distilled_{name}": value for name, value in self._judge().items()}
        least = report["distilled_held_out"] - self.config.tolerance
        best = (-math.inf, -1, self._weights())
        rounds = []
        overrides = {"target_entropy": self.config.target_entropy, "anchor_weight": self.config.anchor_weight}
        mac = configured(MACConfig(), {**overrides, **self.config.mac})
        learner = MAC(self.actor, self.critic, mac, anchor)
        for number in range(self.config.rounds):
            mean_reward, visited = self._interact(learner, number)
            judged = {"round": float(number), "imagined_reward": mean_reward, **self._judge()}
            rounds.append(judged)
            if judged["held_out"] >= least and mean_reward > best[0]:
                best = (mean_reward, number, self._weights())
            if self._ask is not None and number + 1 < self.config.rounds:
                self._fit_reward(self._ask(visited))
        actor, critic = best[2]
        self.actor.load_state_dict(actor)
        self.critic.load_state_dict(critic)
        report |= {"kept_round": float(best[1]), **self._judge()}
        return Pretrained(self.projection, self.actor, self.critic, self.reward, report, tuple(rounds))

    def _weights(self) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        return copy.deepcopy(self.actor.state_dict()), copy.deepcopy(self.critic.state_dict())

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
        """Rank correlation of the policy's logits with held-out judgements, and its entropy: means over states."""
        by_state: dict[tuple[tuple[str, int], ...], list[Preference]] = {}
        for preference in self._test:
            by_state.setdefault(preference.judgement.history, []).append(preference)
        reward = self.config.reward
        correlations = []
        entropies = []
        for history, judged in by_state.items():
            states = pack_states([interactions(history, self.index)], self.config.network.max_history)
            with torch.no_grad():
                logits = losses.mask_history(self.actor(states), states)
            entropies.append(float(losses.entropy(logits)))
            scores = logits[0, [self.index[p.judgement.item_id] for p in judged]].numpy()
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

    def _distil(self) -> dict[str, float]:
        """Regress the actor on the reward model's policy and the critic on its rewards."""
        config = self.config
        pool = self._sample_states(config.distil_states)
        wanted = self._logits(pool)
        temperature = self._temperature(wanted)
        self._start_from_prior(temperature)
        nets = [self.actor, self.critic]
        parameters = [p for net in nets for name, p in net.named_parameters() if name != "id_vectors"]
        optimizer = torch.optim.Adam(parameters, lr=config.learning_rate)
        schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.1, max(1, config.distil_steps))
        divergence = error = torch.zeros(())
        for step in range(config.distil_steps):
            rows = torch.randint(config.distil_states, (config.batch_size,), generator=self._generator)
            states, logits = States(*(part[rows] for part in pool)), wanted[rows]
            target = losses.mask_history(logits / temperature, states)
            divergence = losses.kl_divergence(target, losses.mask_history(self.actor(states), states)).mean()
            error = functional.mse_loss(self.critic.q_values(states), torch.sigmoid(logits))
            optimizer.zero_grad(set_to_none=True)
            (divergence + 10 * error).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
            self._progress("distilling the policy", 0.4 * (step + 1) / config.distil_steps)
        return {"temperature": temperature, "distil_kl": divergence.item(), "critic_error": error.item()}

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

    def _start_from_prior(self, temperature: float) -> None:
        """Write the items' priors into the actor's biases: what the text tells as its slope, the rest by item."""
        with torch.no_grad():
            scaled = self.reward.config.prior_weight * self.reward.prior / temperature
            ridge = self.text.T @ self.text + 10.0 * torch.eye(self.text.shape[1])
            slope = torch.linalg.solve(ridge, self.text.T @ (scaled - scaled.mean()))
            self.actor.text_bias.weight.copy_(slope.unsqueeze(0))
            self.actor.id_bias.copy_(scaled - scaled.mean() - self.text @ slope)

    # -- interaction -----------------------------------------------------------------------------------------------

    def _interact(self, learner: MAC, number: int) -> tuple[float, list[Question]]:
        """One round with imagined users; returns the mean reward of a session and questions about states visited."""
        config = self.config
        imagined = interact(self.actor, self.reward, config.imagination, self._rng)
        replay = imagined.replay
        for step in range(config.steps_a_round):
            learner.step(replay.sample(learner.config.batch_size, self._generator))
            done = (number + (step + 1) / config.steps_a_round) / config.rounds
            self._progress(f"interacting, round {number + 1}", 0.4 + 0.6 * done)
        return imagined.reward, self._questions(imagined.visited)

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


def learner_description(config: PretrainConfig) -> dict[str, object]:
    """What the manifest says of how the policy was learned."""
    return {"name": "ialp", **asdict(config)}
