"""Our policy served by LitServe with batches: `python served_model.py PORT`, for the snapshot in $BENCH_SNAPSHOT.

It reads and writes JSON, and asks no Redis and no key: the model server's own part is what is compared.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import litserve
import numpy as np
import torch

from service.policy.adaptive import Query
from service.policy.snapshot_files import load_catalogue, load_snapshot
from service.policy.types import Interaction, Response
from service.serving.slates import Draw, draw_all

K = 10


class PolicyAPI(litserve.LitAPI):  # type: ignore[misc]
    """States of 20 interactions in, slates with propensities out."""

    def setup(self, device: str) -> None:
        torch.set_num_threads(1)
        folder = Path(os.environ["BENCH_SNAPSHOT"])
        snapshot, catalogue = load_snapshot(folder), load_catalogue(folder)
        self.policy = snapshot.serving_policy(catalogue.embeddings)
        self.rng, self.available = np.random.default_rng(0), np.ones(self.policy.n_items, np.bool_)
        self.states = [
            [Interaction(int(item), Response.POSITIVE if n % 3 else Response.IGNORED) for n, item in enumerate(items)]
            for items in self.rng.integers(self.policy.n_items, size=(1_000, 20))
        ]

    def decode_request(self, request):  # type: ignore[no-untyped-def]  # it makes a parameter of what is annotated
        return int(str(request["user_id"])[1:])

    def batch(self, inputs: Any) -> Any:
        return inputs

    def predict(self, users: Any) -> Any:
        wanted = [
            Draw(self.policy, Query(self.states[user % len(self.states)], self.available), K, self.rng)
            for user in users
        ]
        return [
            {"items": [f"item-{item}" for item in drawn.items], "propensities": drawn.propensities}
            for drawn in draw_all(wanted)
        ]

    def unbatch(self, output: Any) -> Any:
        return output

    def encode_response(self, output: Any) -> Any:
        return output


if __name__ == "__main__":
    api = PolicyAPI(max_batch_size=16, batch_timeout=0.002, api_path="/recommend")
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=1)
    server.run(host="127.0.0.1", port=int(sys.argv[1]), log_level="error", generate_client_file=False)
