"""What users did lately: bounded, in the order in which a policy sees it, and forgotten on demand."""

from __future__ import annotations

from service.recent import Recent


def test_a_response_comes_before_what_was_shown_in_vain() -> None:
    recent = Recent(n_responses=5, n_shown=5)
    assert recent.of("ann") == ()
    recent.replace("ann", [("a", 1.0), ("b", 0.0), ("c", 0.0)])
    recent.add("ann", "d", -1.0)
    assert recent.of("ann") == (("a", 1.0), ("d", -1.0), ("b", 0.0), ("c", 0.0))
    recent.add("ann", "b", 0.2)
    assert recent.of("ann") == (("a", 1.0), ("d", -1.0), ("b", 0.2), ("c", 0.0)), "no longer in vain"
    recent.add("ann", "a", 0.2)
    assert recent.of("ann") == (("d", -1.0), ("b", 0.2), ("a", 1.0), ("c", 0.0)), "as in the session: the strongest"
    recent.add("ann", "a", -0.5)
    assert recent.of("ann")[2] == ("a", -0.5), "until somebody says no"


def test_a_skip_pushes_out_nothing_and_is_what_was_shown_in_vain() -> None:
    recent = Recent(n_responses=2, n_shown=2)
    for item, reward in (("a", 1.0), ("b", 1.0), ("c", 0.0)):
        recent.add("ann", item, reward)
    assert recent.of("ann") == (("a", 1.0), ("b", 1.0), ("c", 0.0))


def test_views_do_not_push_out_a_purchase() -> None:
    recent = Recent(n_responses=3, n_shown=0)
    for item, reward in (("bought", 1.0), ("v1", 0.2), ("v2", 0.2), ("v3", 0.2), ("v4", 0.2)):
        recent.add("ann", item, reward)
    assert recent.of("ann") == (("bought", 1.0), ("v3", 0.2), ("v4", 0.2))


def test_an_impression_says_how_it_is() -> None:
    recent = Recent(n_responses=5, n_shown=5)
    recent.add("ann", "a", 1.0)
    recent.replace("ann", [("b", 1.0)])
    recent.add("ann", "c", 1.0)
    assert recent.of("ann") == (("b", 1.0), ("c", 1.0))


def test_only_the_latest_of_each_kind_are_kept() -> None:
    recent = Recent(n_responses=2, n_shown=1)
    recent.replace("ann", [("a", 1.0), ("b", 1.0), ("c", 1.0), ("d", 0.0), ("e", 0.0)])
    assert recent.of("ann") == (("b", 1.0), ("c", 1.0), ("e", 0.0))
    recent.add("ann", "f", 0.0)
    recent.add("ann", "g", 1.0)
    assert recent.of("ann") == (("c", 1.0), ("g", 1.0), ("f", 0.0))
    nothing_in_vain = Recent(n_responses=2, n_shown=0)
    nothing_in_vain.replace("ann", [("a", 1.0), ("d", 0.0)])
    assert nothing_in_vain.of("ann") == (("a", 1.0),)


def test_the_user_unheard_of_for_longest_gives_way() -> None:
    recent = Recent(n_responses=2, n_shown=2, n_users=2)
    for user in ("ann", "ben", "ann", "carl"):
        recent.add(user, "a", 1.0)
    assert len(recent) == 2 and recent.of("ben") == () and recent.of("ann") != () != recent.of("carl")


def test_a_restored_one_forgets_the_same_user_next() -> None:
    recent, other = Recent(2, 2, n_users=2), Recent(2, 2, n_users=2)
    for user in ("ann", "ben", "ann"):
        recent.add(user, "a", 1.0)
    other.restore(recent.dump())
    for one in (recent, other):
        one.add("carl", "b", 1.0)
        assert one.of("ben") == ()
        one.erase("ann")
        one.erase("nobody")
    assert recent.dump() == other.dump() == [("carl", (("b", 1.0),))]
