"""Defaults that options show and configurations have, apart from the latter: `--help` need not wait for torch."""

from __future__ import annotations

DISTIL_STEPS = 400
ROUNDS = 2
TARGET_ENTROPY = 0.7  # of the policy, as a share of log(number of items)
PRIOR_WEIGHT = 1.0
PERSONAL_WEIGHT = 0.5
