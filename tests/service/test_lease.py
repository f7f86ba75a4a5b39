"""One worker at a time, however long one of them was away."""

from __future__ import annotations

import pytest
import redis as syncredis

from service.store.keys import Keys
from service.store.lease import Fenced, Lease
from tests.service.service_examples import until

LONG_S = 60.0


def test_one_holds_it_and_the_others_wait(redis: syncredis.Redis, keys: Keys) -> None:
    one, other = Lease(redis, keys, LONG_S), Lease(redis, keys, LONG_S)
    assert one.acquire() and not other.acquire()
    one.renew()
    assert one.acquire(), "asking again is no harm"
    one.release()
    assert other.acquire() and not one.acquire()
    assert other.token == 2


def test_whoever_was_replaced_can_write_no_more(redis: syncredis.Redis, keys: Keys) -> None:
    paused, successor = Lease(redis, keys, 0.01), Lease(redis, keys, LONG_S)
    assert paused.acquire()
    paused.write(lambda pipe: pipe.set(keys.worker, "one"))
    until(successor.acquire, "the end of the lease")
    with pytest.raises(Fenced):
        paused.write(lambda pipe: pipe.set(keys.worker, "two"))
    with pytest.raises(Fenced):
        paused.renew()
    successor.write(lambda pipe: pipe.set(keys.worker, "three"))
    assert redis.get(keys.worker) == b"three"
    paused.release()
    assert not Lease(redis, keys, LONG_S).acquire(), "what another holds is not released"


def test_being_replaced_in_the_middle_of_a_write_refuses_it(redis: syncredis.Redis, keys: Keys) -> None:
    lease = Lease(redis, keys, LONG_S)
    assert lease.acquire()

    def overtaken(pipe: syncredis.client.Pipeline) -> None:
        redis.incr(keys.fence)
        pipe.set(keys.worker, "late")

    with pytest.raises(Fenced):
        lease.write(overtaken)
    assert redis.get(keys.worker) is None


def test_a_lease_lost_to_nobody_is_had_back(redis: syncredis.Redis, keys: Keys) -> None:
    lease = Lease(redis, keys, 0.01)
    assert lease.acquire()
    until(lambda: not redis.exists(keys.lease), "the end of the lease")
    lease.renew()
    assert lease.token == 1
    lease.write(lambda pipe: pipe.set(keys.worker, "still here"))
