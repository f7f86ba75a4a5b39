"""Taste that depends on a context is learned within some hundred visits, and facts that say nothing cost little.

`-s` prints what docs/decisions.md tells of.
"""

from __future__ import annotations

import numpy as np

from tests.check.test_small_shops import Films

TASTES = {
    "de": {"Animation", "Children"},
    "fr": {"Drama", "Romance"},
    "it": {"Horror", "Thriller"},
    "es": {"Sci-Fi", "War"},
}
VISITS, SLATES, K = 1_200, 2, 5
SEEDS = (1,)


def earned(seed: int, tells: bool, n_idle: int = 0, alike: bool = False) -> list[float]:
    """Likes a slate of each visit of the adaptive arm, in which `n_idle` facts say nothing and, if it `tells`, the
    country says what is liked; with tastes `alike` all like the same."""
    films, rng = Films(seed), np.random.default_rng(seed)
    likes = []
    for visit in range(VISITS):
        country = list(TASTES)[rng.integers(len(TASTES))]
        liked = TASTES["de"] if alike else TASTES[country]
        context = {"country": country} if tells else {}
        context |= {f"idle{n}": str(rng.integers(5)) for n in range(n_idle)}
        of_visit = 0
        for _ in range(SLATES):
            impression = films.deployment.recommend(f"u:{seed}-{visit}", K, context=context)
            chances = [0.5 if films.kinds[item] & liked else 0.05 for item in impression.items]
            good = [item for item, chance in zip(impression.items, chances, strict=True) if rng.random() < chance]
            films.deployment.reward(impression, dict.fromkeys(good, 1.0))
            of_visit += len(good)
        if impression.arm == "adaptive":
            likes.append(of_visit / SLATES)
    assert sum(films.deployment.served) >= len(films.deployment.served) / 2
    return likes


def test_a_taste_that_depends_on_the_country_is_learned_and_idle_facts_cost_little() -> None:
    worlds = {
        "country": [earned(seed, True) for seed in SEEDS],
        "country, four idle facts": [earned(seed, True, 4) for seed in SEEDS],
        "not told": [earned(seed, False) for seed in SEEDS],
        "not told, four idle facts": [earned(seed, False, 4) for seed in SEEDS],
        "alike": [earned(seed, False, alike=True) for seed in SEEDS],
        "alike, four idle facts": [earned(seed, False, 4, alike=True) for seed in SEEDS],
    }
    means = {name: float(np.mean([np.mean(run) for run in runs])) for name, runs in worlds.items()}
    late = {name: float(np.mean([np.mean(run[len(run) // 2 :]) for run in runs])) for name, runs in worlds.items()}
    print({name: (round(means[name], 2), round(late[name], 2)) for name in worlds})
    assert late["country"] > 2.3 > 2.1 > late["not told"]
    assert means["country"] > 1.2 * means["not told"]
    for world in ("country", "not told", "alike"):
        assert late[f"{world}, four idle facts"] > 0.93 * late[world]
