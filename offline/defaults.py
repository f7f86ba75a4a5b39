"""Defaults that options show and configurations have, apart from the latter: `--help` need not wait for torch."""

from __future__ import annotations

# Log odds of a like for each standard deviation of what the judge says. A conditional logit on the likes of MovieLens
# latest-small gave 0.60 and 2.35, and what is served ranks real likes about as well from 2 to 3 (docs/people.md).
PRIOR_WEIGHT = 0.6
PERSONAL_WEIGHT = 2.5
