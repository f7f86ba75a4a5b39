"""Items, users and placements in the dashboard: found, changed, erased."""

from __future__ import annotations

import re

import msgspec
import pytest
from playwright.sync_api import Locator, Page, expect

from service.store.import_reports import ImportReport, reported
from service.store.keys import Keys
from tests.dashboard.dashboard_examples import PLANTED, Site, go, section
from tests.service.service_examples import recommend, respond, shown, until


def rows(page: Page) -> Locator:
    return section(page, "Items").locator("tbody tr")


def find(page: Page, text: str) -> None:
    page.get_by_label("Words of its title").fill(text)
    page.get_by_role("button", name="Search").click()


def confirm(page: Page, button: str) -> None:
    page.get_by_role("dialog").get_by_role("button", name=button).click()


def stored(site: Site, item: str) -> dict[str, object]:
    answer: dict[str, object] = site.client.get(f"/items/{item}").raise_for_status().json()
    return answer


def put(site: Site, item: str, text: str, **fields: object) -> None:
    site.client.put(f"/items/{item}", json={"text": text, **fields}).raise_for_status()


def test_items_are_found_by_title_words_and_id_hidden_ones_too(lively: Site, page: Page) -> None:
    """trials T: "Finding Nemo" found Donnie Darko, "Titanic (1997)" Hercules (1997)."""
    for n, title in enumerate(["Donnie Darko (2001)", "Finding Nemo (2003)", "Hercules (1997)", "Titanic (1997)"]):
        put(lively, f"known-{n}", title, hidden=True)
    go(page, "items")
    expect(rows(page)).to_have_count(20)
    page.get_by_role("button", name="Show more").click()
    expect(rows(page).nth(20)).to_be_visible()
    for text, first in (
        ("Finding Nemo", "Finding Nemo (2003)"),
        ("Titanic (1997)", "Titanic (1997)"),
        ("that film Titanic with the ship", "Titanic (1997)"),
        ("known-2", "Hercules (1997)"),
    ):
        find(page, text)
        expect(rows(page).first.locator(".title")).to_have_text(first)
        expect(rows(page).first).to_contain_text("hidden")
    find(page, "that film Titanic with the ship")
    expect(section(page, "Items")).to_contain_text("No title has all of these words. Closest in words and meaning:")
    for n in range(4):
        lively.client.delete(f"/items/known-{n}").raise_for_status()


def test_an_item_is_changed_and_what_others_change_meanwhile_stays(lively: Site, page: Page) -> None:
    put(lively, "edited", "Before", categories=["Drama"], properties={"price": 9, "stock": 3, "sale": True})
    go(page, "items")
    find(page, "edited")
    page.get_by_role("button", name="Edit Before").click()
    editor = section(page, "Edit Before")
    editor.get_by_label("Text").fill("After <i>all</i>")
    editor.get_by_label("Categories").fill("Drama\n\n Sea stories \n")
    properties = editor.get_by_label("Properties")
    expect(properties).to_have_value(re.compile('"price": 9'))
    properties.fill('{"price": 12.5, "stock": 3, "tags": ["new", "<b>"]}')
    editor.get_by_label("Available until").fill("2030-01-02T03:04:05")
    editor.get_by_label("Hidden").check()
    lively.client.patch("/items/edited", json={"properties": {"stock": 1}}).raise_for_status()
    editor.get_by_role("button", name="Save").click()
    expect(page.get_by_text("Saved: After <i>all</i>.")).to_be_visible()
    item = stored(lively, "edited")
    assert item["properties"] == {"price": 12.5, "stock": 1, "tags": ["new", "<b>"]}
    assert (item["text"], item["categories"], item["hidden"]) == ("After <i>all</i>", ["Drama", "Sea stories"], True)
    assert item["available_from"] is None
    until = page.evaluate("new Date('2030-01-02T03:04:05').getTime() / 1000")
    assert item["available_until"] == until
    expect(rows(page).first).to_contain_text("hidden")
    expect(rows(page).first).to_contain_text('tags ["new","<b>"]')

    page.get_by_role("button", name="Edit After").click()
    editor = section(page, "Edit After <i>all</i>")
    expect(editor.get_by_label("Available until")).to_have_value("2030-01-02T03:04:05")
    editor.get_by_role("button", name="Save").click()
    expect(editor.get_by_text("Nothing was changed.")).to_be_visible()
    editor.get_by_label("Available until").fill("")
    editor.get_by_label("Properties").fill("")
    editor.get_by_role("button", name="Save").click()
    expect(page.get_by_text("Saved: After <i>all</i>.")).to_be_visible()
    assert stored(lively, "edited")["properties"] == {} and stored(lively, "edited")["available_until"] is None


def test_what_is_no_item_is_refused_where_it_is_written(lively: Site, page: Page) -> None:
    put(lively, "whole", "A whole item")
    go(page, "items")
    find(page, "whole")
    page.get_by_role("button", name="Edit A whole item").click()
    editor = section(page, "Edit A whole item")
    for written, why in (("{", "no JSON"), ("[1]", "write an object"), ('{"a": {"b": 1}}', "properties")):
        editor.get_by_label("Properties").fill(written)
        editor.get_by_role("button", name="Save").click()
        expect(editor.get_by_role("status")).to_contain_text(why)
    editor.get_by_role("button", name="Cancel").click()
    expect(editor).to_have_count(0)
    assert stored(lively, "whole")["properties"] == {}


def test_an_item_is_made_and_deleted(lively: Site, page: Page) -> None:
    go(page, "items")
    page.get_by_role("button", name="New item").click()
    editor = section(page, "New item")
    editor.get_by_role("textbox", name="Id", exact=True).fill("of/a new:kind")
    editor.get_by_label("Text").fill(PLANTED)
    editor.get_by_role("button", name="Save").click()
    expect(rows(page)).to_have_count(1)
    expect(rows(page).first.locator(".title")).to_have_text(PLANTED)
    expect(rows(page).first).to_contain_text("of/a new:kind")
    assert lively.client.get("/items/of%2Fa%20new%3Akind").json()["text"] == PLANTED
    rows(page).first.get_by_role("button", name="Delete").click()
    expect(page.get_by_role("dialog")).to_contain_text("It is not shown any more.")
    confirm(page, "Cancel")
    assert lively.client.get("/items/of%2Fa%20new%3Akind").status_code == 200
    rows(page).first.get_by_role("button", name="Delete").click()
    confirm(page, "Delete")
    expect(page.get_by_text(f"Deleted: {PLANTED}.")).to_be_visible()
    assert lively.client.get("/items/of%2Fa%20new%3Akind").status_code == 404
    assert page.locator("main :is(b, i, script)").count() == 0


def test_a_user_is_looked_up_and_erased(lively: Site, page: Page) -> None:
    user = "ann/<b>1</b>"
    slate = recommend(lively.client, user, k=3)
    first, second, _ = shown(slate)
    about = {"user_id": user, "recommendation_id": slate["recommendation_id"]}
    respond(lively.client, {"event_id": "1", "item_id": first, "type": "like", **about})
    respond(lively.client, {"event_id": "2", "item_id": second, "type": "dislike", **about})
    titles = [stored(lively, item)["text"] for item in (second, first)]
    go(page, "users")
    page.get_by_label("User id").fill("nobody-at-all")
    page.get_by_role("button", name="Look up").click()
    expect(page.get_by_text("Nothing is stored of this user.")).to_be_visible()
    page.get_by_label("User id").fill(user)
    page.get_by_role("button", name="Look up").click()
    found = section(page, user)
    expect(found).to_contain_text("2 responses kept, 3 items seen.")
    expect(found.locator("ul.plain li")).to_have_text([f"disliked {titles[0]}", f"liked {titles[1]}"])
    page.get_by_role("button", name="Try it as this user").click()
    expect(page.get_by_label("User id")).to_have_value(user)
    expect(section(page, "What they did")).to_contain_text(f"liked {titles[1]}")
    go(page, "users")
    page.get_by_label("User id").fill(user)
    page.get_by_role("button", name="Look up").click()
    page.get_by_role("button", name="Erase").click()
    confirm(page, "Cancel")
    assert lively.client.get("/users/ann%2F%3Cb%3E1%3C%2Fb%3E").status_code == 200
    page.get_by_role("button", name="Erase").click()
    confirm(page, "Erase")
    gone = section(page, f"{user} is erased")
    expect(gone).to_contain_text("Deleted: what was kept of them, 2 slates, 2 events of feedback, 0 dead letters.")
    expect(gone).to_contain_text("it does not name them")
    assert lively.client.get("/users/ann%2F%3Cb%3E1%3C%2Fb%3E").status_code == 404


def test_placements_are_listed_with_what_they_earn(lively: Site, page: Page) -> None:
    """One that is stored and named, one that is named alone, one that is stored alone."""
    lively.client.put("/placements/told", json={"k": 3, "filters": {"categories": ["Drama"]}}).raise_for_status()
    rules = {"pins": [{"slot": 0, "item_id": "<b>"}], "boosts": [{"where": {"sale": True}, "by": 0.7}]}
    limited = {**rules, "at_most": [{"of": "categories", "n": 2}]}
    lively.client.put("/placements/unnamed", json={"rules": limited, "repeat": "freely"}).raise_for_status()

    def closed() -> bool:
        for name in ("told", "bare"):
            recommend(lively.client, f"of-{name}", placement=name)
        return {"told", "bare"} <= set(lively.client.get("/evaluation").json()["placements"])

    until(closed, "slates of both placements to close")
    go(page, "placements")
    told, bare, unnamed = (page.get_by_role("row").filter(has_text=name) for name in ("told", "bare", "unnamed"))
    expect(told).to_contain_text("3 slots")
    expect(told).to_contain_text("only Drama")
    expect(told).to_contain_text(re.compile(r"(adaptive|control) \S+ \(\S+ to \S+\), \d+ slates?"))
    expect(bare).to_contain_text("Nothing is stored")
    expect(bare).to_contain_text(re.compile(r"(adaptive|control) \S+ \(\S+ to \S+\), \d+ slates?"))
    expect(bare.get_by_role("button")).to_have_text(["Edit"])
    for text in ("<b> at slot 0", '+0.7 log odds where {"sale":true}', "at most 2 with the same categories", "freely"):
        expect(unnamed).to_contain_text(text)
    expect(unnamed).to_contain_text("No slate of it has been closed yet.")
    for name in ("told", "unnamed"):
        lively.client.delete(f"/placements/{name}").raise_for_status()


def test_what_has_no_field_of_its_own_stays_in_a_placement(lively: Site, page: Page) -> None:
    rules = {"new_items": {"share": 0.1, "within_days": 7.0}}
    kept = {"k": 3, "rules": rules, "repeat_after_days": 30.0, "exclude_feedback_types": ["like"]}
    lively.client.put("/placements/kept", json=kept).raise_for_status()
    go(page, "placements")
    row = page.get_by_role("row").filter(has_text="kept")
    for text in ("new_items:", "repeat_after_days: 30", 'exclude_feedback_types: ["like"]'):
        expect(row).to_contain_text(text)
    page.get_by_role("button", name="Edit kept").click()
    editor = section(page, "Edit kept")
    editor.get_by_label("Slots").fill("5")
    editor.get_by_role("button", name="Save").click()
    expect(page.get_by_text("Saved: kept.")).to_be_visible()
    stored_now = lively.client.get("/placements/kept").json()
    assert {name: stored_now[name] for name in kept if name != "rules"} | {"rules": rules} == kept | {"k": 5}
    assert stored_now["rules"]["new_items"] == rules["new_items"]
    lively.client.delete("/placements/kept").raise_for_status()


def test_a_placement_is_made_changed_and_deleted(lively: Site, page: Page) -> None:
    go(page, "placements")
    page.get_by_role("button", name="New placement").click()
    editor = section(page, "New placement")
    editor.get_by_label("Name").fill("made.here")
    editor.get_by_label("Slots").fill("4")
    editor.get_by_label("come again").select_option("freely")
    editor.get_by_label("Filters").fill('{"where": {"price": {"<": 9}}}')
    editor.get_by_label("Rules").fill('{"pins": [{"slot": -1, "item_id": "a"}]}')
    editor.get_by_role("button", name="Save").click()
    expect(editor.get_by_role("status")).to_contain_text("rules.pins.0.slot")
    assert lively.client.get("/placements/made.here").status_code == 404
    editor.get_by_label("Rules").fill("")
    editor.get_by_role("button", name="Save").click()
    expect(page.get_by_text("Saved: made.here.")).to_be_visible()
    made = {"k": 4, "filters": {"where": {"price": {"<": 9}}}, "repeat": "freely"}
    listed = lively.client.get("/placements").json()["placements"]["made.here"]
    assert {name: value for name, value in listed.items() if name in made} | {"filters": made["filters"]} == made
    page.get_by_role("button", name="Edit made.here").click()
    editor = section(page, "Edit made.here")
    expect(editor.get_by_label("Slots")).to_have_value("4")
    expect(editor.get_by_label("Filters")).to_have_value(re.compile('"price"'))
    editor.get_by_label("Slots").fill("")
    editor.get_by_role("button", name="Save").click()
    expect(page.get_by_text("Saved: made.here.")).to_be_visible()
    assert lively.client.get("/placements/made.here").json()["k"] is None
    assert lively.client.get("/placements/made.here").json()["repeat"] == "freely"
    page.get_by_role("button", name="Delete made.here").click()
    confirm(page, "Delete")
    expect(page.get_by_text("Deleted: made.here.")).to_be_visible()
    assert lively.client.get("/placements/made.here").status_code == 404


def test_imports_are_watched(lively: Site, page: Page) -> None:
    keys = Keys(lively.settings.key_prefix)
    go(page, "users")
    watched = section(page, "Imports of what users did before")
    expect(watched).to_contain_text("There was none yet.")
    with reported(lively.redis, keys, "<b>bought</b>.csv") as reporter:
        reporter.tell(rows=1_234)
        line = watched.locator("tbody tr")
        expect(line).to_contain_text("<b>bought</b>.csv")
        expect(line).to_contain_text("reads the file, 1,234 rows so far")
        reporter.tell(state="writing", users=300, changed=100, same=20)
        expect(line).to_contain_text("writes histories, 120 of 300 users so far")
        reporter.tell(changed=250, same=50, interactions=1_200, left_out=("34 without a time",))
    expect(line).to_contain_text("done")
    expect(line).to_contain_text("1,200 interactions")
    expect(line).to_contain_text("250 histories changed, 50 had it all")
    expect(line).to_contain_text("34 without a time")
    with pytest.raises(ValueError, match="no file"), reported(lively.redis, keys, "none.csv"):
        raise ValueError("no file of this name")
    expect(line.first).to_contain_text("failed no file of this name")
    killed = ImportReport("9", "killed.csv", 1.0, 1.0)
    lively.redis.hset(keys.imports, killed.import_id, msgspec.json.encode(killed))
    expect(line.first).to_contain_text("it may have been killed")
    lively.redis.delete(keys.imports)
