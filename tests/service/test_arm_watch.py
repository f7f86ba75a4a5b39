"""The watch over what serves: rare false alarms, sure true ones, and the numbers by hand."""

from __future__ import annotations

import math
from collections.abc import Callable

import msgspec
import numpy as np
import pytest

from service.store import sessions
from service.store.worker_report import LEAST_GROUPS, Power, worth_noticing
from service.worker.arm_watch import BUCKETS, ArmWatch, ArmWatchState, Difference, compare, width

SHARE = 0.1
USERS = [f"u:{n}" for n in range(2_000)]
ARM = {user: "control" if sessions.share_of(user, "arm") < SHARE else "adaptive" for user in USERS}


def serve(
    watch: ArmWatch,
    rng: np.random.Generator,
    n: int,
    effect: Callable[[int], float],
    per_version: int = 1_000,
    first: int = 0,
    user_spread: float = 0.3,
) -> int | None:
    """`n` slates to returning users who differ in how much they like anything; `effect(version)` is what the adaptive
    arm earns beside. Returns after how many slates the watch accused a version."""
    taste = np.random.default_rng(7).normal(1.0, user_spread, len(USERS))
    for k in range(first, first + n):
        number = int(rng.integers(len(USERS)))
        user, version = USERS[number], 1 + k // per_version
        reward = float(rng.poisson(max(0.0, taste[number] + (effect(version) if ARM[user] == "adaptive" else 0.0))))
        watch.add(ARM[user], version, user, reward)
        if k % 32 == 0 and watch.regression() is not None:
            return k - first
    return None


@pytest.mark.slow
def test_few_false_alarms_in_two_hundred_stationary_runs() -> None:
    """Each run is 8,000 slates over 8 versions, with users who come back; the margin is 0, so that any lead of the
    control counts: a margin only makes false alarms rarer."""
    alarms = sum(
        serve(ArmWatch(0.0, 0.05), np.random.default_rng(seed), 8_000, lambda _: 0.0) is not None for seed in range(200)
    )
    assert alarms <= 10


def test_few_false_alarms_with_few_users_who_come_often_and_differ_much() -> None:
    """Half of 120 users are the control: by chance one half is of people who like more. Slates would seem to say much
    about that; there are only so many people."""
    alarms = 0
    for seed in range(60):
        rng, watch = np.random.default_rng(seed), ArmWatch(0.0, 0.05)
        names = [f"u:{seed}-{n}" for n in range(120)]
        arms = ["control" if sessions.share_of(name, "arm") < 0.5 else "adaptive" for name in names]
        taste = rng.uniform(0.2, 1.8, len(names))
        for user in rng.integers(len(names), size=6_000):
            watch.add(arms[user], 1, names[user], float(rng.poisson(taste[user])))
        alarms += watch.regression() is not None
    assert alarms <= 3


def small_deployment(seed: int, effect: float, n: int) -> int | None:
    """240 users, about 24 of them the control, who differ much; after how many slates of `n` there was an alarm."""
    rng, watch = np.random.default_rng(seed), ArmWatch(0.0, 0.05)
    names = [f"u:{seed}-{n}" for n in range(240)]
    arms = ["control" if sessions.share_of(name, "arm") < 0.1 else "adaptive" for name in names]
    taste = rng.uniform(0.2, 1.8, len(names))
    for k, user in enumerate(rng.integers(len(names), size=n)):
        factor = effect if arms[user] == "adaptive" else 1.0
        watch.add(arms[user], 1, names[user], float(rng.poisson(factor * taste[user])))
        if k % 32 == 0 and watch.regression() is not None:
            return k
    return None


def test_a_small_deployment_is_watched_too() -> None:
    """An interval of the normal distribution would be too narrow for so few; none at all would leave it unwatched."""
    assert sum(small_deployment(seed, 1.0, 6_000) is not None for seed in range(40)) <= 2
    assert sum(small_deployment(seed, 0.2, 6_000) is not None for seed in range(4)) >= 3


@pytest.mark.parametrize("bad", [2, 5])
def test_a_bad_update_is_found_and_names_the_version(bad: int) -> None:
    watch = ArmWatch(0.05, 0.05)
    found = serve(watch, np.random.default_rng(0), 20_000, lambda version: 0.2 if version < bad else -0.5)
    assert found is not None and (bad - 1) * 1_000 < found < (bad + 4) * 1_000
    regression = watch.regression()
    assert regression is not None and regression.high < -0.05 * regression.control
    assert regression.since_version >= bad - 1
    assert watch.safest(before=regression.since_version) in range(1, bad)


def test_a_small_loss_within_the_margin_is_borne() -> None:
    assert serve(ArmWatch(0.2, 0.05), np.random.default_rng(0), 20_000, lambda _: -0.1) is None


def test_the_safest_is_the_version_that_was_surely_best() -> None:
    watch = ArmWatch(0.05, 0.05)
    earned = {1: 0.0, 2: 0.8, 3: 0.3, 4: -0.9}
    serve(watch, np.random.default_rng(1), 16_000, earned.__getitem__, per_version=4_000)
    assert watch.safest() == watch.safest(before=4) == 2
    assert watch.safest(before=2) is None, "version 1 was neither better nor surely no worse"


def test_after_a_verdict_it_begins_anew() -> None:
    watch = ArmWatch(0.05, 0.05)
    served = serve(watch, np.random.default_rng(0), 20_000, lambda _: -0.6)
    assert served is not None
    watch.dismiss(1, 20)
    assert watch.regression() is None and watch.findings() == []
    assert serve(watch, np.random.default_rng(1), 2_000, lambda _: -0.6) is None, "slates of theirs that close late"
    assert watch.dump().segments == []
    assert serve(watch, np.random.default_rng(1), 20_000, lambda _: -0.6, first=20_000) is not None, "later ones count"


def test_difference_and_interval_by_hand() -> None:
    rng = np.random.default_rng(0)
    totals = np.zeros((2, 2, BUCKETS))
    for arm, (size, mean) in enumerate([(500, 1.0), (4_000, 1.2)]):
        bucket = rng.integers(BUCKETS, size=size)
        totals[arm, 0] = np.bincount(bucket, minlength=BUCKETS)
        totals[arm, 1] = np.bincount(bucket, rng.normal(mean, 2.0, size), BUCKETS)
    difference = compare(totals)
    assert difference is not None
    means = totals[:, 1].sum(1) / totals[:, 0].sum(1)
    assert (difference.value, difference.control) == pytest.approx((means[1] - means[0], means[0]))
    assert difference.se == pytest.approx(2.0 * math.sqrt(1 / 500 + 1 / 4_000), rel=0.2)
    assert difference.n == pytest.approx(500 * 4_000 / 4_500)
    tau = difference.n / 20
    assert 63 < difference.freedom < 126
    # The t-test's mixture martingale is 1 / alpha at the interval's end.
    t, nu = width(difference, 0.05) / difference.se, difference.freedom
    inner = (1 + t**2 / nu) / (1 + t**2 / (nu * (1 + tau)))
    assert inner ** ((nu + 1) / 2) / math.sqrt(1 + tau) == pytest.approx(1 / 0.05)
    # Robbins: |S_n| < sqrt((n + r) log((n + r) / (r alpha^2))) at all n, for a sum S_n of n standard normals.
    n, r = difference.n, 20.0
    boundary = math.sqrt((n + r) * math.log((n + r) / (r * 0.05**2))) / n
    for freedom, within in ((math.inf, 1e-12), (1e6, 1e-4)):
        known = width(difference._replace(freedom=freedom), 0.05)
        assert known == pytest.approx(boundary * difference.se * math.sqrt(n), rel=within)


def test_the_fewer_users_the_wider_until_nothing_is_said() -> None:
    difference = Difference(-1.0, 0.1, 1_000.0, 60.0, 1.0)
    widths = [width(difference._replace(freedom=freedom), 0.01) for freedom in (60.0, 20.0, 8.0, 4.0, 2.0)]
    assert widths == sorted(widths) and math.isinf(widths[-1]) and widths[0] < 0.5


def test_too_few_users_say_nothing() -> None:
    totals = np.zeros((2, 2, BUCKETS))
    totals[:, :, :5] = 100.0
    assert compare(totals) is None
    totals[:, :, 5] = 100.0
    assert compare(totals) is not None


def test_many_versions_take_no_more_room_and_a_checkpoint_leaves_no_trace() -> None:
    one = ArmWatch(0.05, 0.05)
    rng = np.random.default_rng(0)
    serve(one, rng, 5_000, lambda _: 0.0, per_version=50)
    assert len(one.dump().segments) == 64
    other = ArmWatch(0.05, 0.05)
    other.restore(msgspec.msgpack.decode(msgspec.msgpack.encode(one.dump()), type=ArmWatchState))
    for watch in (one, other):
        serve(watch, np.random.default_rng(1), 500, lambda _: 0.0, per_version=50, first=5_000)
    assert one.findings() == other.findings() and one.findings()
    total = sum(sum(segment.totals[:BUCKETS]) for segment in one.dump().segments)
    adaptive = sum(sum(segment.totals[2 * BUCKETS : 3 * BUCKETS]) for segment in one.dump().segments)
    assert total + adaptive == 5_500


def test_it_tells_which_loss_it_would_notice_and_how_much_more_it_takes() -> None:
    """A loss is noticed about when it was said that it would be, and a smaller one is not."""
    foretold, noticed = [], []
    for seed in range(8):
        watch, rng = ArmWatch(0.05, 0.05), np.random.default_rng(seed)
        assert watch.power() is None
        serve(watch, rng, 1_000, lambda _: 0.0, per_version=10**9)
        early = watch.power()
        assert early is not None and early.more_control is not None and early.least_loss is not None
        assert early.least_loss > worth_noticing(0.05)
        foretold.append(early.control + early.more_control)
        loses = ArmWatch(0.05, 0.05)
        after = serve(loses, rng, 60_000, lambda _: -worth_noticing(0.05), per_version=10**9)
        power = loses.power()
        assert after is not None and power is not None and power.least_loss is not None
        assert power.least_loss < 1.5 * worth_noticing(0.05)
        noticed.append(power.control)
    assert 0.3 < np.median(noticed) / np.median(foretold) < 3


@pytest.mark.parametrize("rewards", [(1.0, 1.0), (0.0, 0.0)])
def test_it_says_that_it_cannot_tell_where_the_control_has_few_users_or_earns_nothing(
    rewards: tuple[float, float],
) -> None:
    watch = ArmWatch(0.05, 0.05)
    for n in range(40):
        watch.add("control", 1, f"u:{n % 3}", rewards[0])
        watch.add("adaptive", 1, f"v:{n}", rewards[1])
    power = watch.power()
    assert power == Power(power.groups if power else 0, 40, None, None) and power.groups < LEAST_GROUPS
