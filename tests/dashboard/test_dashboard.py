"""The dashboard in a real browser, against a running service and worker."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
from playwright.sync_api import Browser, Page, Response, Route, expect

from tests.dashboard.dashboard_examples import PLANTED, Site, go, section
from tests.offline import open_bandit
from tests.service.service_examples import GENRES, N_ITEMS, Server, talk, until_ready


def card(page: Page, title: str) -> str:
    return page.locator(".card", has_text=title).locator("dd").inner_text()


def test_now_tells_what_serves_and_what_the_arms_earn(lively: Site, page: Page) -> None:
    go(page, "now")
    live = lively.client.get("/policies").json()["live_version"]
    expect(page.locator(".card", has_text="Version in service").locator("dd")).to_contain_text(str(live))
    assert re.match(r"\d", card(page, "Slates learned from"))
    expect(page.locator(".legend .adaptive")).to_contain_text(re.compile(r"\d.* \(.* to .*\)"))
    expect(page.locator(".chart canvas")).to_have_count(5)
    label = re.compile("^Reward a slate; latest: adaptive")
    expect(page.locator(".chart").first).to_have_attribute("aria-label", label)
    expect(page.locator("#trouble")).to_contain_text("No API keys are needed")


def test_now_goes_on_by_itself(lively: Site, page: Page) -> None:
    go(page, "now")
    before = card(page, "Slates learned from")
    talk(lively.client, 12, start=5_000)
    expect(page.locator(".card", has_text="Slates learned from").locator("dd")).not_to_have_text(before)


def test_versions_can_be_rolled_back_frozen_and_activated(lively: Site, page: Page) -> None:
    def pointer() -> tuple[int, str]:
        told = lively.client.get("/policies").json()
        return told["live_version"], told["mode"]

    go(page, "versions")
    newest = pointer()[0]
    row = page.locator("tbody tr", has=page.get_by_role("button", name=f"Activate version {newest}", exact=True))
    expect(row).to_contain_text("serves")
    expect(row).to_contain_text("passed")
    row.get_by_text("All of it").click()
    expect(row).to_contain_text("kl_to_live")

    page.get_by_role("button", name="Roll back").click()
    expect(page.get_by_role("dialog")).to_contain_text("held")
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_be_hidden()
    assert pointer() == (newest, "auto"), "nothing happens unless it is confirmed"

    page.get_by_role("button", name="Roll back").click()
    page.get_by_role("dialog").get_by_role("button", name="Roll back").click()
    expect(page.get_by_text("Rolled back.")).to_be_visible()
    assert pointer()[0] < newest and pointer()[1] == "held"
    expect(page.locator("#trouble")).to_contain_text("is held")

    page.get_by_role("button", name="Freeze").click()
    page.get_by_role("dialog").get_by_role("button", name="Freeze").click()
    expect(page.locator("#trouble .bad")).to_contain_text("Frozen")
    assert pointer()[1] == "frozen"

    page.get_by_role("button", name=f"Activate version {newest}", exact=True).click()
    page.get_by_role("dialog").get_by_role("button", name="Activate").click()
    expect(page.get_by_text(f"Activated. Version {newest} serves (auto).")).to_be_visible()
    assert pointer() == (newest, "auto")
    expect(page.locator("#trouble")).not_to_contain_text("Frozen")


def test_a_click_changes_the_slate_at_once(lively: Site, page: Page) -> None:
    go(page, "try")
    entries = page.locator("ol.slate > li")
    expect(entries).to_have_count(10)
    expect(page.get_by_text("this user is a stranger")).to_be_visible()
    expect(entries.first).to_contain_text("propensity")
    expect(entries.first).to_contain_text(re.compile("pre-trained policy|learned policy"))
    expect(page.locator("ol.slate")).not_to_contain_text("liked")  # a stranger's slate needs no excuse
    shown = entries.locator(".title").all_inner_texts()
    entries.nth(2).get_by_role("button", name=re.compile("^Like ")).click()
    expect(page.locator("section", has_text="What they did").locator("li").first).to_have_text(f"liked {shown[2]}")
    expect(entries.first.locator(".title")).not_to_have_text(shown[0])
    assert not set(shown) & set(entries.locator(".title").all_inner_texts()), "shown items do not come again"
    expect(entries.first).to_contain_text(re.compile(rf"Close to {re.escape(shown[2])} \(|Nothing they liked"))


def test_items_are_found_by_their_text_and_liked(lively: Site, page: Page) -> None:
    go(page, "try")
    page.get_by_label("Words of its title").fill("film 7")
    page.get_by_role("button", name="Search").click()
    page.get_by_role("list", name="Search results").get_by_role("button", name="Like Film number 7", exact=True).click()
    expect(page.locator("section", has_text="What they did")).to_contain_text("liked Film number 7")
    expect(page.get_by_text("adaptive arm")).to_be_visible()
    page.get_by_label("User id").fill("user-3")
    page.get_by_role("button", name="Show their slate").click()
    expect(page.locator("section", has_text="What they did")).not_to_contain_text("Film number 7")


def compares_with_a_stranger(answer: Response) -> bool:
    if not answer.url.endswith("/preview"):
        return False
    asked = answer.request.post_data_json
    return asked is not None and bool(asked["baseline"] == [])


def test_what_answers_change_is_told_in_words(lively: Site, page: Page) -> None:
    go(page, "try")
    changed = section(page, "What it changed")
    expect(changed).to_contain_text("Nothing yet")
    liked = [
        {"event_id": f"fan-{n}", "user_id": "fan", "item_id": f"film-{n}", "type": "like"} for n in (1, 4, 7, 10, 13)
    ]
    lively.client.post("/feedback", json=liked).raise_for_status()
    page.get_by_label("User id").fill("fan")
    # The answer that the page got: another one could be of the next version, as likes teach.
    with page.expect_response(compares_with_a_stranger) as answered:
        page.get_by_role("button", name="Show their slate").click()
    expect(changed).to_contain_text("Compared with a stranger")
    expect(changed).to_contain_text("By liking Film number 13")
    moved = {one["category"]: one["share"] - one["baseline_share"] for one in answered.value.json()["categories"]}
    assert any(abs(difference) >= 0.005 for difference in moved.values())
    for category, difference in moved.items():
        row = changed.locator("ul").first.locator("li", has=page.get_by_text(category, exact=True))
        if abs(difference) >= 0.005:
            expect(row).to_contain_text("more likely" if difference > 0 else "less likely")
            expect(row).to_contain_text(re.compile(r"% of the slots, a stranger’s .*%"))
        else:
            expect(row).to_have_count(0)


def test_what_somebody_dislikes_is_told(lively: Site, page: Page) -> None:
    go(page, "try")
    shown = page.locator("ol.slate .title").first.inner_text()
    page.get_by_role("button", name=f"Not for me: {shown}", exact=True).click()
    did = section(page, "What they did").locator("li").first
    expect(did).to_have_text(f"disliked {shown}")
    expect(section(page, "What it changed")).to_contain_text(f"By disliking {shown}")
    expect(page.locator("ol.slate")).not_to_contain_text("Nothing they liked")


def test_where_no_title_matches_what_is_close_is_told_as_such(lively: Site, page: Page) -> None:
    go(page, "try")
    page.get_by_label("Words of its title").fill("film of horses")
    page.get_by_role("button", name="Search").click()
    results = page.get_by_role("list", name="Search results")
    expect(results).to_contain_text("No title has all of these words. Closest in meaning:")
    expect(results.get_by_role("button", name=re.compile("^Not for me"))).to_have_count(8)
    page.get_by_label("Words of its title").fill("number film 12")
    page.get_by_role("button", name="Search").click()
    expect(results.locator("li")).to_have_count(1)
    expect(results).to_contain_text("Film number 12")


def test_likes_and_dislikes_are_the_deployments_own(site: Site, browser: Browser, tmp_path: Path) -> None:
    own = {"key_prefix": f"{site.settings.key_prefix}:own", "data_dir": tmp_path / "data"}
    settings = site.settings.model_copy(update={**own, "rewards": {"seen": 0.1, "fav": 10.0}})
    with Server(settings) as client:
        until_ready(client)
        page = browser.new_page(base_url=str(client.base_url))
        go(page, "try")
        expect(page.locator("ol.slate > li")).to_have_count(10)
        expect(page.get_by_role("button", name=re.compile("^Not for me"))).to_have_count(0)
        page.locator("ol.slate").get_by_role("button", name=re.compile("^Like ")).first.click()
        expect(section(page, "What they did")).to_contain_text("liked ")
        user = page.get_by_label("User id").input_value()
        assert [past["reward"] for past in client.get(f"/users/{user}").json()["history"]] == [10.0]
        page.close()


def test_without_categories_items_are_told(site: Site, browser: Browser, tmp_path: Path) -> None:
    own = {"key_prefix": f"{site.settings.key_prefix}:bare", "data_dir": tmp_path / "data"}
    with Server(site.settings.model_copy(update=own)) as client:
        until_ready(client)
        bare = [{"item_id": f"film-{n}", "text": f"{GENRES[n % 3]} {n}"} for n in range(N_ITEMS)]
        client.post("/items:batch", json={"items": bare}).raise_for_status()
        page = browser.new_page(base_url=str(client.base_url))
        go(page, "try")
        page.locator("ol.slate").get_by_role("button", name=re.compile("^Like ")).first.click()
        row = section(page, "What it changed").locator("ul").first.locator("li").first
        expect(row).to_contain_text(re.compile(r"(Drama|Comedy|Western) \d+.*in .*% of slates, a stranger’s .*%"))
        page.close()


def test_markup_in_texts_stays_text(lively: Site, page: Page) -> None:
    go(page, "try")
    page.get_by_label("Words of its title").fill(PLANTED)
    page.get_by_role("button", name="Search").click()
    results = page.get_by_role("list", name="Search results")
    expect(results.get_by_text(PLANTED, exact=True)).to_be_visible()
    results.get_by_role("button", name=f"Like {PLANTED}", exact=True).click()
    expect(page.locator("section", has_text="What they did").locator("li").first).to_have_text(f"liked {PLANTED}")
    user = page.get_by_label("User id").input_value()
    lively.client.post(
        "/recommend", json={"user_id": f"{user}<img src=x onerror=alert(1)>", "candidate_item_ids": ["planted"]}
    )
    go(page, "logs")
    expect(page.get_by_text(f"{user}<img src=x onerror=alert(1)>")).to_be_visible()
    page.locator("summary", has_text="1 items").first.click()
    expect(page.locator("td ol li", has_text=PLANTED).first).to_be_visible()
    assert page.title() == "Logs – ialp"
    assert page.locator("b, i, td img").count() == 0


def test_logs_show_slates_with_their_feedback_and_give_the_log_as_a_file(
    lively: Site, page: Page, tmp_path: Path
) -> None:
    slate = lively.client.post("/recommend", json={"user_id": "reader", "k": 3}).json()
    event = {"event_id": "read-1", "user_id": "reader", "item_id": slate["items"][0]["item_id"], "type": "like"}
    lively.client.post("/feedback", json={**event, "recommendation_id": slate["recommendation_id"]}).raise_for_status()
    go(page, "logs")
    row = page.locator("tbody tr", has_text="u:reader").first
    expect(row.locator(".chip.good")).to_have_count(1)
    expect(row).to_contain_text("3 items")
    with page.expect_download() as waiting:
        page.get_by_role("button", name="Download Parquet").click()
    saved = tmp_path / "log.parquet"
    waiting.value.save_as(saved)
    assert saved.read_bytes()[:4] == b"PAR1"
    with page.expect_download() as waiting:
        page.get_by_role("button", name="Download for Open Bandit Pipeline").click()
    assert waiting.value.suggested_filename == "bandit_feedback.npz"
    waiting.value.save_as(tmp_path / "obp.npz")
    with np.load(tmp_path / "obp.npz", allow_pickle=False) as found:
        rounds = dict(found)
    assert rounds["n_rounds"] == len(rounds["action"]) == len(rounds["context"]) > 30
    given = {name: rounds[name] for name in ("context", "action", "reward", "position", "pscore", "action_context")}
    open_bandit.imported().utils.check_bandit_feedback_inputs(**given)
    assert rounds["item_ids"][-1] == "planted"


def test_a_log_that_cannot_be_had_as_a_file_is_told(lively: Site, page: Page) -> None:
    def refuse(route: Route) -> None:
        body = json.dumps({"detail": "There are more than 100,000 logged slots."})
        route.fulfill(status=507, content_type="application/problem+json", body=body)

    page.route("**/log:export?form=obp", refuse)
    go(page, "logs")
    button = page.get_by_role("button", name="Download for Open Bandit Pipeline")
    button.click()
    expect(page.get_by_text("There are more than 100,000 logged slots.")).to_be_visible()
    expect(button).to_be_enabled()


def test_dead_letters_are_replayed_and_discarded(lively: Site, page: Page) -> None:
    key = f"{lively.settings.key_prefix}:dead"
    ids = [lively.redis.xadd(key, {"e": b"\xc1", "reason": f"EventError: <{n}>"}).decode() for n in (1, 2)]
    go(page, "logs")
    expect(page.get_by_text("EventError: <2>")).to_be_visible()
    page.get_by_role("button", name=f"Discard {ids[0]}").click()
    page.get_by_role("dialog").get_by_role("button", name="Discard").click()
    expect(page.get_by_text("EventError: <1>")).to_have_count(0)
    page.get_by_role("button", name=f"Replay {ids[1]}").click()
    expect(page.get_by_text("EventError: <2>")).to_have_count(0)  # the worker will set it aside again, under a new id
