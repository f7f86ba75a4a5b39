"""Pre-training: from a language model's judgements to a policy, in log odds and in closed form.

    f(s, a) = level + PRIOR share z(a) + PERSONAL personal(s, a)

z is the item prior as a z-score: judged, or by regression on texts where it was not. `share` is how far it is believed
(`alignment`). `personal` is closeness of texts to what was liked, w0 (profile(s).v(a), nearest liked), corrected by a
Bayesian regression of the personal judgements on the network's own features with weights around w0: few judgements
leave closeness of texts as it is, many correct it. What was disliked counts the other way, and what was shown in vain
too, by less: silence is a weak no. Nothing bores before a real user was bored.

Where the paper alternates distillation and interaction with imagined users, nothing is imagined here: users who tire
of what they like, as imagined, taught a policy that liking a kind removes it (docs/decisions.md). No logs, no gradient
steps, no entropy that is aimed at: seconds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from offline.alignment import Alignment, Trust, with_closeness, with_names, with_texts
from offline.defaults import PERSONAL_WEIGHT, PRIOR_WEIGHT
from offline.preferences import Preference, Preferences, Prior
from offline.regression import BayesianRegression
from service.policy.network_types import N_LIKED_LATEST
from service.policy.networks import SHRINKAGE, ItemScorer, NetworkConfig
from service.policy.text import Embeddings, TextProjection

CLOSENESS = (3.4, 0.77)  # w0: of the profile, of the nearest liked; as Gemma's judgements say on MovieLens
SILENCE = 0.125  # what shown in vain counts, against what was liked
DISLIKE = 0.25  # low ratings say even less against a kind: people rate what they chose (docs/people.md)
LEAVE = (-4.5, 0.0)  # logit of a session's end: about one slate in ninety, whatever it shows
_RIDGE = 10.0


@dataclass(frozen=True)
class PretrainConfig:
    """Everything that decides the result, but for the judgements."""

    seed: int = 0
    encoder: str = "minilm"
    network: NetworkConfig = field(default_factory=NetworkConfig)
    prior_weight: float = PRIOR_WEIGHT
    personal_weight: float = PERSONAL_WEIGHT


@dataclass(frozen=True)
class Pretrained:
    """Results of pre-training, ready for a snapshot."""

    projection: TextProjection
    actor: ItemScorer  # and critic: one network
    alignment: Alignment

    @property
    def report(self) -> dict[str, float]:
        """Numbers for the manifest."""
        return self.alignment.report()


@dataclass(frozen=True)
class _Personal:
    """Personal judgements as a regression sees them, state by state."""

    features: list[Tensor]  # [n, dim + 2] of each state: profile.v(a), nearest liked, profile * v(a); float64
    z: list[Tensor]  # [n]

    @classmethod
    def of(cls, preferences: Sequence[Preference], index: Mapping[str, int], text: Tensor) -> _Personal:
        by_state: dict[tuple[tuple[str, int], ...], list[Preference]] = {}
        for preference in preferences:
            if preference.judgement.item_id in index:
                by_state.setdefault(preference.judgement.history, []).append(preference)
        features, z = [], []
        for history, judged in by_state.items():
            liked = [index[item_id] for item_id, response in history if response > 0 and item_id in index]
            if liked:
                vectors = text[[index[p.judgement.item_id] for p in judged]]
                profile = text[liked].sum(0) / (len(liked) + SHRINKAGE)
                nearest = (vectors @ text[liked[-N_LIKED_LATEST:]].T).clamp_min(0).amax(1)
                parts = [(vectors @ profile)[:, None], nearest[:, None], vectors * profile]
                features.append(torch.cat(parts, 1).double())
                z.append(torch.tensor([p.personal_z for p in judged], dtype=torch.float64))
        return cls(features, z)

    def trust(self, start: Tensor, seed: int) -> Trust:
        """Measure how far judgements follow closeness of texts."""
        close = [x @ start for x in self.features]
        return with_closeness([z.numpy() for z in self.z], [c.numpy() for c in close], seed)

    def weights(self, start: Tensor) -> Tensor:
        """The most probable weights [dim + 2] around `start`; a state's mean is nobody's taste."""
        x = torch.cat([part - part.mean(0) for part in self.features])
        z = torch.cat([part - part.mean() for part in self.z])
        return start + BayesianRegression.fit(x, z - x @ start).mean


def pretrain(
    item_ids: Sequence[str], embeddings: Embeddings, preferences: Preferences, config: PretrainConfig
) -> Pretrained:
    """The policy that the judgements make of a catalogue; `embeddings` [A, TEXT_DIM] are of the items in order.

    Without any judgement it likes what reads like what was liked.
    """
    projection = TextProjection.fit(torch.from_numpy(embeddings), config.network.text_dim)
    text = projection(torch.from_numpy(embeddings))
    index = {item_id: row for row, item_id in enumerate(item_ids)}
    priors = {item_id: prior for item_id, prior in preferences.priors.items() if item_id in index}
    z, by_text = _prior(priors, index, text, config.seed)
    start = torch.zeros(text.shape[1] + 2, dtype=torch.float64)
    start[:2] = torch.tensor(CLOSENESS, dtype=torch.float64)
    personal = _Personal.of(preferences.personal, index, text)
    named = [item_id for item_id in preferences.names if item_id in priors]
    names = with_names([priors[i].value for i in named], [preferences.names[i] for i in named])
    alignment = Alignment(names, by_text, personal.trust(start, config.seed))
    weights = personal.weights(start) if alignment.uses_personal else start
    actor = ItemScorer(config.network, text)
    _write(actor, config.prior_weight * alignment.prior_share * z, config.personal_weight * weights.float())
    return Pretrained(projection, actor, alignment)


def _prior(priors: Mapping[str, Prior], index: Mapping[str, int], text: Tensor, seed: int) -> tuple[Tensor, Trust]:
    """z [A] of all items, with mean 0 and deviation 1, and how far texts predict what was judged."""
    if not priors:
        return torch.zeros(len(text)), Trust.unmeasured()
    judged = [index[item_id] for item_id in priors]
    z = torch.tensor([prior.z for prior in priors.values()])
    features = torch.cat([torch.ones(len(text), 1), text], 1).double()
    whole = BayesianRegression.fit(features[judged], z.double()).predict(features)[0].float()
    whole[judged] = z
    spread = float(whole.std()) if len(whole) > 1 else 0.0
    whole = (whole - whole.mean()) / (spread if spread > 1e-6 else 1.0)
    return whole, with_texts(z.double(), features[judged], seed)


@torch.no_grad()
def _write(actor: ItemScorer, item: Tensor, weights: Tensor) -> None:
    """Write f into the network: `item` [A] as slope of texts and biases for the rest, `weights` [text_dim + 2]."""
    text = actor.text
    slope = torch.linalg.solve(text.T @ text + _RIDGE * torch.eye(text.shape[1]), text.T @ (item - item.mean()))
    actor.text_bias.weight.copy_(slope.unsqueeze(0))
    actor.id_bias.copy_(item - item.mean() - text @ slope)
    products = weights[2 : 2 + actor.config.dim]
    # Profiles are of liked items, of the last liked, of disliked and of ignored ones.
    for profile, share in ((0, 1.0), (2, -DISLIKE), (3, -SILENCE)):
        actor.gain[profile] = share * weights[0]
        actor.mixing[profile].diagonal()[: len(products)].copy_(share * products)
    actor.repeat.copy_(torch.stack([weights[1], -SILENCE * weights[1], torch.zeros(())]))
    actor.leave.copy_(torch.tensor(LEAVE))
