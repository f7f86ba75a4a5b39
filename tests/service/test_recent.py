"""What users did lately: bounded, in the order in which a policy sees it, and forgotten on demand."""

from __future__ import annotations

from service.store.sessions import Reaction
from service.worker.recent import Recent


def at(reward: float, when: float = 7.0) -> Reaction:
    return Reaction(reward, when)


def test_a_response_comes_before_what_was_shown_in_vain() -> None:
    recent = Recent(n_responses=5, n_shown=5)
    assert recent.of("ann") == ()
    recent.replace("ann", [("a", 1.0), ("b", 0.0), ("c", 0.0)])
    recent.add("ann", "d", at(-1.0))
    assert recent.of("ann") == (("a", 1.0), ("d", -1.0), ("b", 0.0), ("c", 0.0))
    recent.add("ann", "b", at(0.2))
    assert recent.of("ann") == (("a", 1.0), ("d", -1.0), ("b", 0.2), ("c", 0.0)), "no longer in vain"
    recent.add("ann", "a", at(0.2))
    assert recent.of("ann") == (("d", -1.0), ("b", 0.2), ("a", 1.0), ("c", 0.0)), "as in the session: the strongest"
    recent.add("ann", "a", at(-0.5), explicit=True)
    assert recent.of("ann")[2] == ("a", -0.5), "until somebody says no"


def test_a_skip_pushes_out_nothing_and_is_what_was_shown_in_vain() -> None:
    recent = Recent(n_responses=2, n_shown=2)
    for item, reward in (("a", 1.0), ("b", 1.0), ("c", 0.0)):
        recent.add("ann", item, at(reward))
    assert recent.of("ann") == (("a", 1.0), ("b", 1.0), ("c", 0.0))


def test_views_do_not_push_out_a_purchase() -> None:
    recent = Recent(n_responses=3, n_shown=0)
    for item, reward in (("bought", 1.0), ("v1", 0.2), ("v2", 0.2), ("v3", 0.2), ("v4", 0.2)):
        recent.add("ann", item, at(reward))
    assert recent.of("ann") == (("bought", 1.0), ("v3", 0.2), ("v4", 0.2))


def test_an_impression_says_how_it_is() -> None:
    recent = Recent(n_responses=5, n_shown=5)
    recent.add("ann", "a", at(1.0))
    recent.replace("ann", [("b", 1.0)])
    recent.add("ann", "c", at(1.0))
    assert recent.of("ann") == (("b", 1.0), ("c", 1.0))


def test_only_the_latest_of_each_kind_are_kept() -> None:
    recent = Recent(n_responses=2, n_shown=1)
    recent.replace("ann", [("a", 1.0), ("b", 1.0), ("c", 1.0), ("d", 0.0), ("e", 0.0)])
    assert recent.of("ann") == (("b", 1.0), ("c", 1.0), ("e", 0.0))
    recent.add("ann", "f", at(0.0))
    recent.add("ann", "g", at(1.0))
    assert recent.of("ann") == (("c", 1.0), ("g", 1.0), ("f", 0.0))
    nothing_in_vain = Recent(n_responses=2, n_shown=0)
    nothing_in_vain.replace("ann", [("a", 1.0), ("d", 0.0)])
    assert nothing_in_vain.of("ann") == (("a", 1.0),)


def test_the_user_unheard_of_for_longest_gives_way() -> None:
    recent = Recent(n_responses=2, n_shown=2, n_users=2)
    for user in ("ann", "ben", "ann", "carl"):
        recent.add(user, "a", at(1.0))
    assert len(recent) == 2 and recent.of("ben") == () and recent.of("ann") != () != recent.of("carl")


def test_a_restored_one_forgets_the_same_user_next() -> None:
    recent, other = Recent(2, 2, n_users=2), Recent(2, 2, n_users=2)
    for user in ("ann", "ben", "ann"):
        recent.add(user, "a", at(1.0))
    other.restore(recent.dump())
    for one in (recent, other):
        one.add("carl", "b", at(1.0))
        assert one.of("ben") == ()
        one.erase("ann")
        one.erase("nobody")
    assert recent.dump() == other.dump() == [("carl", (("b", 1.0, 7.0),))]


def test_the_order_is_that_of_what_happened() -> None:
    recent = Recent(n_responses=3, n_shown=3)
    for n in (4, 2, 3, 1):
        recent.add("ann", f"at {n}", at(1.0, n))
    assert recent.of("ann") == (("at 2", 1.0), ("at 3", 1.0), ("at 4", 1.0))
    recent.replace("ann", [("at 2", 1.0), ("at 4", 1.0), ("vain", 0.0)])
    recent.add("ann", "late", at(1.0, 3))
    assert recent.of("ann") == (("at 2", 1.0), ("late", 1.0), ("at 4", 1.0), ("vain", 0.0)), (
        "an impression changes none"
    )


def test_what_is_taken_back_was_shown_in_vain() -> None:
    recent = Recent(n_responses=3, n_shown=3)
    recent.add("ann", "a", at(1.0))
    recent.add("ann", "b", at(1.0))
    recent.undo("ann", "a")
    recent.undo("ann", "never")
    assert recent.of("ann") == (("b", 1.0), ("a", 0.0))


def test_a_visitor_who_logs_in_brings_what_they_did() -> None:
    recent = Recent(n_responses=5, n_shown=5)
    recent.add("ann", "a", at(1.0, 1))
    recent.add("ann", "c", at(0.2, 3))
    recent.add("tab", "b", at(1.0, 2))
    recent.add("tab", "c", at(1.0, 2))
    recent.replace("tab", [*recent.of("tab"), ("a", 0.0), ("d", 0.0)])
    recent.join("tab", "ann")
    assert recent.of("ann") == (("a", 1.0), ("b", 1.0), ("c", 1.0), ("d", 0.0)) and recent.of("tab") == ()


def test_a_response_of_nothing_has_its_time() -> None:
    recent = Recent(n_responses=5, n_shown=5)
    recent.add("ann", "b", at(-0.5, 5))
    recent.add("ann", "a", at(0.0, 7))
    recent.add("ann", "a", at(0.25, 3))
    assert recent.of("ann") == (("b", -0.5), ("a", 0.25)), "as in the session"
