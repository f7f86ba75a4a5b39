from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from offline.judgements import Judgement, Role
from offline.preferences import decompose, evidence, export, robust_center_scale

H1, H2 = (("a", 1), ("b", -1)), (("c", 1),)


def _judgement(
    item_id: str, score: float, role: Role = "user", history: tuple[tuple[str, int], ...] = H1, n_tokens: int = 1
) -> Judgement:
    return Judgement(f"{role}{history}{item_id}", history, item_id, "likelihood", "fake", "1", score, n_tokens, role)


PRIORS = [_judgement(f"i{n}", -float(n), "prior", ()) for n in range(5)]
BASELINES = [_judgement(f"i{n}", -float(n) + 2.0, "baseline", H2) for n in range(1, 5)]


def test_priors_are_robust_z_scores() -> None:
    priors = decompose(PRIORS, []).priors
    # Values 0, -1 .. -4: median -2, quartiles -3 and -1.
    scale = 2.0 / 1.349
    assert [priors[f"i{n}"].z for n in range(5)] == pytest.approx([(2.0 - n) / scale for n in range(5)])


def test_personal_is_what_the_history_adds_to_the_baseline() -> None:
    users = [_judgement(f"i{n}", -float(n) + 2.0 + d, "user") for n, d in enumerate([9.0, -1.0, 1.0, -1.0, 1.0])]
    found = decompose([*PRIORS, *BASELINES], users)
    # i0 has no baseline: its prior, 0, plus the median difference, 2.
    assert [p.personal for p in found.personal] == pytest.approx([9.0, -1.0, 1.0, -1.0, 1.0])
    assert [p.prior for p in found.personal] == pytest.approx([0.0, -1.0, -2.0, -3.0, -4.0])
    # Median 1; the rest has sum 4 over 5 rows and the shrinkage's 4.
    assert found.calibration.personal_center == 1.0
    rest = np.array([8.0, -2.0, 0.0, -2.0, 0.0]) - 4.0 / 9.0
    expected = np.clip(rest / (2.0 / 1.349), -4, 4)
    assert [p.personal_z for p in found.personal] == pytest.approx(expected)


def test_a_state_that_makes_everything_likely_says_nothing_of_items() -> None:
    users = [_judgement(f"i{n}", -float(n) + shift, "user", h) for n in range(5) for h, shift in ((H1, 5.0), (H2, 0.0))]
    found = decompose(PRIORS, users)
    by_history = {h: [p.personal_z for p in found.personal if p.judgement.history == h] for h in (H1, H2)}
    gap = np.mean(by_history[H1]) - np.mean(by_history[H2])
    calibrated = 5.0 / found.calibration.personal_scale
    assert gap == pytest.approx(calibrated * 4 / 9)  # STATE_SHRINKAGE keeps 4 parts of 9 of it


def test_evidence_weighs_a_likelihood_by_its_length() -> None:
    assert evidence(_judgement("i", -2.0, n_tokens=9)) == pytest.approx(-6.0)
    logit = Judgement("k", (), "i", "judge", "fake", "1", -2.0, 9)
    assert evidence(logit) == -2.0


def test_likelihoods_of_mere_names_are_kept_apart_and_change_nothing_else() -> None:
    users = [_judgement("i1", -0.5), _judgement("i2", -0.25, history=H2)]
    names = [_judgement("i1", -2.0, "name", (), n_tokens=9), _judgement("i9", -1.0, "name", ())]
    plain, found = (decompose([*PRIORS, *BASELINES, *extra], users) for extra in ([], names))
    assert found.names == {"i1": pytest.approx(-6.0), "i9": -1.0}  # as evidence; whoever reads them looks for priors
    assert plain.names == {}
    assert (found.priors, found.personal, found.calibration) == (plain.priors, plain.personal, plain.calibration)


def test_items_without_a_prior_are_left_out_and_nothing_is_fine() -> None:
    assert decompose(PRIORS, [_judgement("unknown", 0.0)]).personal == ()
    empty = decompose([], [])
    assert not empty.priors and not empty.personal
    assert all(math.isfinite(x) for x in vars(empty.calibration).values())


def test_robust_scale() -> None:
    values = np.random.default_rng(0).normal(3.0, 2.0, 20_000)
    values[:100] = 1e6
    assert robust_center_scale(values) == pytest.approx((3.0, 2.0), rel=0.03)
    assert robust_center_scale(np.ones(5)) == (1.0, 1.0)
    assert robust_center_scale(np.array([0.0, 0.0, 0.0, 0.0, 0.0, 6.0]))[1] > 0


def test_export_is_one_row_each(tmp_path: Path) -> None:
    found = decompose([*PRIORS, *BASELINES], [_judgement("i1", -0.5), _judgement("i2", -0.25, history=H2)])
    export(found, tmp_path)
    rows = pq.read_table(tmp_path / "judgements.parquet").to_pylist()
    assert [r["item_id"] for r in rows] == ["i1", "i2"]
    assert rows[0]["history_items"] == ["a", "b"] and rows[0]["history_responses"] == [1, -1]
    assert rows[0]["personal_z"] == found.personal[0].personal_z
    assert rows[1]["score"] == -0.25 and rows[1]["style"] == "likelihood"
    priors = pq.read_table(tmp_path / "priors.parquet").to_pylist()
    assert {r["item_id"]: r["prior_z"] for r in priors} == {i: p.z for i, p in found.priors.items()}


def test_export_of_nothing_keeps_the_columns(tmp_path: Path) -> None:
    export(decompose([], []), tmp_path)
    assert pq.read_table(tmp_path / "judgements.parquet").num_rows == 0
    assert "prior_z" in pq.read_table(tmp_path / "priors.parquet").column_names
