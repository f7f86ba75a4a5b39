"""Build what the dashboard shows of this moment, as one JSON object: process, live pointer, the worker's report."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from typing import Literal

import msgspec
import numpy as np
from redis.exceptions import RedisError

from service.api.state import State
from service.policy.variants import Variant
from service.serving.loader import LivePolicy
from service.settings import Settings
from service.store.moments import Moment
from service.store.registry import REFUSALS, RegistryError, RollBack
from service.store.worker_report import LEAST_GROUPS, WorkerReport, worth_noticing

log = logging.getLogger(__name__)

_LATELY_S = 10.0  # of which rates and latencies are told
_SILENT_S = 15.0  # after which a worker that reports twice a second is missed


class Requests(msgspec.Struct, frozen=True):
    """`/recommend` of this process lately."""

    per_second: float
    p50_ms: float | None
    p95_ms: float | None
    p99_ms: float | None


class Trouble(msgspec.Struct, frozen=True):
    """Something that an operator should know at once."""

    kind: Literal[
        "frozen",
        "held",
        "rolled_back",
        "no_policy",
        "redis_away",
        "worker_away",
        "lag",
        "disk",
        "no_auth",
        "refused",
        "waiting",
        "trial",
        "damaged",
        "restarted",
        "unwatched",
    ]
    text: str


class Now(msgspec.Struct, frozen=True):
    """The state of the service as this process sees it."""

    at: float
    version: int
    mode: str | None
    shadow: int | None
    variant: str | None
    age_s: float | None  # of the version in service
    items: int
    lag_s: float
    closed: int  # impressions that the worker has closed
    open: int  # impressions that it has not closed yet
    reward_window_s: float  # how long they stay open
    new_share: float | None  # of their slots, those of items newer than the first version; None before the first slot
    new_reward: float | None  # of such a slot, None where there is none
    slot_reward: float | None  # of any slot
    learner: dict[str, float]
    rewards: dict[str, float]  # by feedback type
    requests: Requests
    trouble: list[Trouble]


async def now(state: State) -> Now:
    """Ask Redis, where it answers, and this process."""
    report: WorkerReport | None = None
    roll_backs: list[RollBack] = []
    redis_answers = True
    try:
        report = await state.worker_report()
        roll_backs = await state.watch.registry.roll_backs()
    except (RedisError, OSError):
        redis_answers = False
    except RegistryError as error:  # what is stored of roll-backs cannot be read
        log.warning("the dashboard shows no roll-backs: %s", error)
    at, live = time.time(), state.watch.current
    return Now(
        at=at,
        version=live.version if live is not None else 0,
        mode=live.live.mode if live is not None else None,
        shadow=live.live.shadow if live is not None else None,
        variant=live.policy.config.variant.value if live is not None else None,
        age_s=_age_s(live, at),
        items=int(np.count_nonzero(state.watch.catalogue.available(at))),
        lag_s=state.lag.seconds if report is None else max(state.lag.seconds, report.lag_s),
        closed=report.closed if report is not None else 0,
        open=report.open if report is not None else 0,
        reward_window_s=state.settings.reward_window_s,
        **_of_slots(report),
        learner=report.learner if report is not None else {},
        rewards=state.settings.rewards,
        requests=lately(list(state.metrics.recent), time.perf_counter()),
        trouble=[
            *_of_redis(redis_answers),
            *_of_policy(live, roll_backs, state.watch.problem),
            *_of_worker(state, report, at if redis_answers else None),
            *_of_keys(state),
        ],
    )


def _age_s(live: LivePolicy | None, at: float) -> float | None:
    if live is None or not live.snapshot.manifest.created_at:  # a snapshot need not say when it was made
        return None
    return max(0.0, at - live.snapshot.manifest.created_at)


def _of_slots(report: WorkerReport | None) -> dict[str, float | None]:
    if report is None or not report.slots:
        return {"new_share": None, "new_reward": None, "slot_reward": None}
    return {
        "new_share": report.new_slots / report.slots,
        "new_reward": report.new_reward / report.new_slots if report.new_slots else None,
        "slot_reward": sum(arm.reward for arm in report.arms.values()) / report.slots,
    }


def _of_redis(answers: bool) -> Iterator[Trouble]:
    if not answers:
        yield Trouble("redis_away", "Redis does not answer: slates come from memory, and nothing is logged.")


def _of_policy(live: LivePolicy | None, roll_backs: Sequence[RollBack], problem: str | None) -> Iterator[Trouble]:
    if problem is not None and live is not None:
        yield Trouble("damaged", f"Version {live.version} serves instead of another one: {problem}.")
    if live is None:
        why = f" ({problem})" if problem is not None else ""
        yield Trouble("no_policy", f"No policy is loaded{why}: the most popular items are shown.")
    elif roll_backs and roll_backs[0].at == live.live.changed_at:
        since = roll_backs[0].finding.since_version
        to = "the pre-trained policy" if live.live.mode == "frozen" else f"version {live.version}"
        yield Trouble(
            "rolled_back", f"Rolled back to {to}: since version {since} users earned less than the control's."
        )
    elif live.live.mode == "frozen":
        yield Trouble("frozen", "Frozen: everybody gets the pre-trained policy, until a version is activated.")
    elif live.live.mode == "held":
        yield Trouble("held", f"Version {live.version} is held: newer versions wait until one is activated.")


def _of_worker(state: State, report: WorkerReport | None, at: float | None) -> Iterator[Trouble]:
    """List what is wrong with the worker; `at` is None if Redis did not answer, so that nothing is known of it."""
    if at is not None and (report is None or at - report.reported_at > _SILENT_S):
        yield Trouble("worker_away", "The worker does not report: feedback is logged, but not learned from.")
    if report is not None and state.watch.current is not None:
        yield from _of_versions(state, state.watch.current, report)
    if state.lag.too_far:
        yield Trouble("lag", "The worker is too far behind: feedback is refused until it catches up.")
    if report is not None and report.disk_errors:
        yield Trouble("disk", f"Versions or checkpoints could not be written, {report.disk_errors} times so far.")


def _of_versions(state: State, live: LivePolicy, report: WorkerReport) -> Iterator[Trouble]:
    settings = state.settings
    if report.refused:
        why = "; ".join(REFUSALS.get(reason, reason) for reason in report.refusal)
        yield Trouble(
            "refused",
            f"Version {report.version} was refused: {why}. Version {live.version} goes on serving; after "
            f"{settings.gate_patience} refusals in a row ({report.refused} so far) the learner starts again from it.",
        )
    elif report.restarted_at and report.restarted_at == report.version:
        yield Trouble(
            "restarted",
            f"The learner started again from version {report.restarted_from}; what it had learned since is given up. "
            f"The next version comes after {report.until_version} more slates or likes.",
        )
    yield from _of_watch(settings, live, report)
    share = live.policy.config.most_learned
    if share < 1 and live.live.mode != "frozen":
        yield Trouble(
            "trial",
            f"Version {live.version} is on trial: its learned policy has a share of {share:.0%}, beside the "
            "pre-trained one, until recent slates can tell what it is worth.",
        )
    if report.version == 1 and settings.variant != Variant.FROZEN:
        yield Trouble(
            "waiting",
            "Nothing learned serves yet: the first version comes after "
            f"{report.towards_version + report.until_version} closed slates or likes without a slate, "
            f"{report.towards_version} so far. A slate closes {_span(settings.reward_window_s)} after it was shown "
            f"(IALP_REWARD_WINDOW_S), with the next event of the log; {report.open} still open.",
        )


def _of_watch(settings: Settings, live: LivePolicy, report: WorkerReport) -> Iterator[Trouble]:
    """Warn if a version that loses much would not be noticed yet, while something that was learned serves."""
    if live.live.mode == "frozen" or live.snapshot.manifest.parent is None:
        return
    loss = worth_noticing(settings.watch_margin)
    unnoticed = f"A version that loses {loss:.0%} of the control's reward would not be noticed yet"
    if settings.control_share == 0:
        yield Trouble("unwatched", "No user is in the control (IALP_CONTROL_SHARE): no loss is noticed or rolled back.")
    elif report.power is None or report.power.groups < LEAST_GROUPS:
        groups = 0 if report.power is None else report.power.groups
        yield Trouble(
            "unwatched",
            f"{unnoticed}: each arm needs users of at least {LEAST_GROUPS} of 64 groups, and the smaller one has "
            f"{groups}. With a larger IALP_CONTROL_SHARE fewer users are enough.",
        )
    elif report.power.least_loss is None or report.power.more_control:
        more = report.power.more_control
        needed = f"about {more} more slates of the control" if more else "more slates and users of the control"
        yield Trouble(
            "unwatched",
            f"{unnoticed}: that takes {needed} ({report.power.control} so far; IALP_CONTROL_SHARE is "
            f"{settings.control_share:g}).",
        )


def _span(seconds: float) -> str:
    """Words for a time."""
    if seconds < 120:
        return f"{seconds:g} s"
    return f"{seconds / 60:.3g} minutes" if seconds < 7200 else f"{seconds / 3600:.3g} hours"


def _of_keys(state: State) -> Iterator[Trouble]:
    if state.key_ring is None:
        yield Trouble("no_auth", "No API keys are needed (IALP_AUTH=off): whoever reaches this page may do everything.")


def lately(recent: Sequence[tuple[float, float]], clock: float) -> Requests:
    """Rate and percentiles of the requests (end, duration) whose end is no longer ago than `_LATELY_S`."""
    durations = np.array([duration for ended, duration in recent if clock - ended <= _LATELY_S])
    if not len(durations):
        return Requests(0.0, None, None, None)
    # A full record does not reach back as far.
    span = min(_LATELY_S, max(clock - recent[0][0], 1e-3)) if len(durations) == len(recent) else _LATELY_S
    p50, p95, p99 = (round(1e3 * float(x), 2) for x in np.percentile(durations, (50, 95, 99)))
    return Requests(round(len(durations) / max(span, 1.0), 1), p50, p95, p99)


def encode_moment(moment: Moment) -> list[object]:
    """Encode a moment for the page: [at, version, coverage, lag, {arm: [n, reward, squares, weight, entropy]}]."""
    arms = {name: [a.impressions, a.reward, a.reward_squared, a.weight, a.entropy] for name, a in moment.arms.items()}
    return [round(moment.at, 1), moment.version, moment.coverage, moment.lag_s, arms]
