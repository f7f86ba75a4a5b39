"""Fills the marked section of docs/performance.md and draws its plots: `python performance_page.py RESULTS PAGE`."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import median

import numpy as np

from simulator.pages.sections import filled
from tests.bench.performance_figure import TITLES, Record, draw
from tests.bench.serving import REFERENCES

NAME, WRITER = "bench", "tests/bench/performance_page.py"


def page(told: Record) -> str:
    """The section's text."""
    parts = [
        _goals(told),
        _hot_path(told["hot_path"], told["profile"]),
        _learning(told["while_learning"]),
        _freshness(told["freshness"]),
        _costs(told["worker"], told["learner_cost"], told["request_cost"]),
        _million_items(told["million_items"], told["request_cost"]["by_items"]["1000000"]),
        _users(told["million_users"]),
        _starting(told["start_up"]),
        _asking(told["distillation"]),
        _machines(told),
    ]
    return "\n\n".join(parts)


def ratios(hot: Record) -> dict[str, float]:
    """Our requests per second over each reference's: the median of what the rounds say."""
    ours = hot["rounds"]["ours"]["per_second"]
    return {
        name: median(a / b for a, b in zip(ours, hot["rounds"][name]["per_second"], strict=True)) for name in REFERENCES
    }


def exponent(by_size: dict[str, float], beyond: float = 0.0) -> float:
    """Of the power law through times by size, by least squares of logarithms, of sizes above `beyond`."""
    points = [(math.log(float(size)), math.log(seconds)) for size, seconds in by_size.items() if float(size) > beyond]
    sizes, seconds_by_size = zip(*points, strict=True)
    return float(np.polyfit(sizes, seconds_by_size, 1)[0])


def _goals(told: Record) -> str:
    rows = [*_goals_of_requests(told), *_goals_of_a_million(told), *_goals_of_the_rest(told)]
    met = [[*row[:3], "met" if row[3] else "**not met**"] for row in rows]
    return f"### In short\n\n{_table(['what', 'goal', 'measured', ''], met, left=1)}"


Goal = tuple[str, str, str, bool]


def _goals_of_requests(told: Record) -> list[Goal]:
    hot, learning, fresh = told["hot_path"], told["while_learning"], told["freshness"]
    of, alone, with_worker = ratios(hot), learning["alone"], learning["learning"]
    burning = learning["burning"]
    slower = with_worker["p99"] / alone["p99"]
    return [
        ("requests/s against a FastAPI echo", "≥ 0.5x", f"{of['echo']:.2f}x", of["echo"] >= 0.5),
        ("... against the echo with Redis", "≥ 1.0x", f"{of['echo_redis']:.2f}x", of["echo_redis"] >= 1.0),
        ("... against LitServe with our policy", "≥ 3x", f"{of['litserve']:.2f}x", of["litserve"] >= 3.0),
        ("p99 at 70% of the most", "≤ 15 ms", f"{hot['open']['p99']:.1f} ms", hot["open"]["p99"] <= 15),
        ("failed requests, with and without a learner", "0", str(_failed(learning)), _failed(learning) == 0),
        ("p99 while it learns against without", "≤ 1.5x", f"{slower:.2f}x", slower <= 1.5),
        (
            "throughput while it learns",
            "≥ 0.85x",
            f"{with_worker['per_second'] / alone['per_second']:.2f}x; "
            f"{with_worker['per_second'] / burning['per_second']:.2f}x of what a busy neighbour leaves",
            with_worker["per_second"] >= 0.85 * alone["per_second"],
        ),
        (
            "clicks that the same user's next slate knows",
            "all",
            f"{fresh['known_to_next_slate']:,} of {fresh['clicks']:,}",
            fresh["known_to_next_slate"] == fresh["clicks"],
        ),
        (
            "click to weights in service, p95",
            "≤ 2 s",
            f"{fresh['delay_s']['p95']:.1f} s (p50 {fresh['delay_s']['p50']:.1f} s)",
            fresh["delay_s"]["p95"] <= 2.0,
        ),
        (
            "events/s learned on one core",
            "≥ 1,500",
            f"{told['worker']['per_second']:,.0f}",
            told["worker"]["per_second"] >= 1_500,
        ),
    ]


def _goals_of_a_million(told: Record) -> list[Goal]:
    million, served, users = told["request_cost"]["by_items"]["1000000"], told["million_items"], told["million_users"]
    return [
        (
            "a million items: a slate, p50 / p99",
            "≤ 3 / 8 ms",
            f"{million['one_ms']['p50']:.1f} / {million['one_ms']['p99']:.1f} ms",
            million["one_ms"]["p50"] <= 3 and million["one_ms"]["p99"] <= 8,
        ),
        (
            "... all of `POST /recommend`, p50 / p99",
            "≤ 3 / 8 ms",
            f"{served['alone_ms']['p50']:.1f} / {served['alone_ms']['p99']:.1f} ms",
            served["alone_ms"]["p50"] <= 3 and served["alone_ms"]["p99"] <= 8,
        ),
        (
            "... memory of an API process",
            "≤ 1.2 GB",
            f"{served['resident_mib'] * 2**20 / 1e9:.2f} GB",
            served["resident_mib"] * 2**20 <= 1.2e9,
        ),
        (
            "... a new item's PUT to an answer with it, at most",
            "≤ 1 s",
            f"{served['new_item_ms']['max'] / 1e3:.2f} s",
            served["new_item_ms"]["max"] <= 1_000,
        ),
        (
            "... share of the exact policy's top ten among candidates",
            "≥ 0.99",
            f"{million['top_mass']:.4f}",
            million["top_mass"] >= 0.99,
        ),
        ("Redis for a million users", "≤ 0.3 GiB", f"{users['gib']:.2f} GiB", users["gib"] <= 0.3),
    ]


def _goals_of_the_rest(told: Record) -> list[Goal]:
    start, asking = told["start_up"], told["distillation"]
    return [
        ("API ready", "< 3 s", f"{median(start['again_s']):.1f} s", median(start["again_s"]) < 3),
        (
            "questions at once to a slow endpoint",
            str(asking["endpoint"]["concurrency"]),
            str(asking["endpoint"]["most_at_once"]),
            asking["endpoint"]["most_at_once"] == asking["endpoint"]["concurrency"],
        ),
        (
            "judgements against the runtime alone",
            "≥ 0.8",
            f"{asking['share_of_ceiling']:.2f}",
            asking["share_of_ceiling"] >= 0.8,
        ),
    ]


def _failed(learning: Record) -> int:
    return sum(learning[part]["failed"] + learning[part]["failed_closed"] for part in ("alone", "learning"))


def _hot_path(hot: Record, profile: Record) -> str:
    of = ratios(hot)
    rows = []
    for name, title in TITLES.items():
        one = hot["rounds"][name]
        ratio = "1" if name == "ours" else f"{of[name]:.2f}"
        per_second = median(one["per_second"])
        rows.append([title, f"{per_second:,.0f}", ratio, f"{one['p50_ms']:.1f}", f"{one['p99_ms']:.1f}"])
    table = _table(["one process on one core", "requests/s", "ours to it", "p50 ms", "p99 ms"], rows, left=1)
    told, echo_us = hot["open"], 1e6 / median(hot["rounds"]["echo"]["per_second"])
    shares, cost_us = profile["shares"], hot["cpu_us_per_request"]
    parts = [[part, f"{share:.0%}", f"{share * cost_us:.0f}"] for part, share in shares.items()]
    policy = sum(share for part, share in shares.items() if part.startswith("the policy"))
    return f"""### The hot path

10,000 items, slates of 10, histories of 20, an API key, the session read and the impression logged durably; wrk with
{hot["connections"]} connections from the other core, in turns with the references.

{table}

A request costs {hot["cpu_us_per_request"]:.0f} µs of CPU in the API and {hot["redis_us_per_request"]:.0f} µs in Redis, so a million of them take
{hot["cpu_us_per_request"] / 60:.1f} and {hot["redis_us_per_request"] / 60:.1f} minutes of a core; the API's process holds {hot["resident_mib"]} MiB. At a steady {told["rate"]:,} requests/s (70% of the most;
latencies count from when a request was due): p50 {told["p50"]:.1f}, p95 {told["p95"]:.1f}, p99 {told["p99"]:.1f} ms;
{told["failed"]} of {told["requests"]:,} failed, {told["with_warnings"]} came with a warning.

![requests per second](img/performance-hot-path.svg)

Where the time goes ({profile["samples"]:,} samples by py-spy; [flame graph](img/performance-flame.svg)):

{_table(["part", "share", "µs a request"], parts, left=1)}

The limit is arithmetic: half of the echo's rate would leave {2 * echo_us:.0f} µs for all of it, and the policy alone takes
{policy * cost_us:.0f}: two networks over every item, 512 candidates against 14 items of the session for each, three softmaxes and a
draw, in NumPy and BLAS on one thread. If it took no time, the rest would do {echo_us / ((1 - policy) * cost_us):.2f}x of the echo's rate."""


def _learning(told: Record) -> str:
    rows = [
        [
            title,
            f"{told[part]['per_second']:,.0f}",
            f"{told[part]['p50']:.1f}",
            f"{told[part]['p95']:.1f}",
            f"{told[part]['p99']:.1f}",
            str(told[part]["failed"] + told[part]["failed_closed"]),
        ]
        for part, title in (
            ("alone", "the API alone"),
            ("burning", "beside a program that only computes"),
            ("learning", "beside the worker that learns from it"),
        )
    ]
    table = _table(["", "most requests/s", "p50 ms", "p95 ms", "p99 ms", "failed"], rows, left=1)
    return f"""### While it learns

Latencies at {told["rate"]:,} requests/s. The worker shares its core with Redis and the client, and takes only what these leave;
it closed {told["closed"]:,} slates and published {told["versions_per_second"]:.2f} versions a second, each of which the API loaded.

{table}

![latency while learning](img/performance-learning.svg)"""


def _freshness(told: Record) -> str:
    delay = told["delay_s"]
    return f"""### Freshness

{told["clicks"]:,} clicks at 200 a second, each between two slates of the same user. {told["known_to_next_slate"]:,} of the second
slates were drawn from a history that has the click. Weights that learned from a click served {delay["p50"]:.1f} s (p50),
{delay["p95"]:.1f} s (p95) after its 202, by version lineage ({told["in_weights"]:,} clicks, {told["versions"]} versions; the last ones came
too late for a version while it was measured); the reward window, {told["reward_window_s"]} s here, is part of that: before its end nobody knows whether more will come."""


def _costs(worker: Record, cost: Record, request: Record) -> str:
    sizes = list(cost["by_items"])
    rows = [
        [
            f"{int(size):,}",
            f"{1e3 * cost['by_items'][size]:.1f}",
            f"{request['by_items'][size]['one_ms']['p50']:.2f} / {request['by_items'][size]['one_ms']['p99']:.2f}",
            f"{request['by_items'][size]['of_16_ms']:.2f}",
            f"{request['by_items'][size]['top_mass']:.4f}",
            f"{request['by_items'][size]['mass']:.4f}",
        ]
        for size in sizes
    ]
    head = [
        "items",
        f"an update by {cost['slates']} slates, ms",
        "one slate, p50 / p99 ms",
        "each of 16, ms",
        "top ten among candidates",
        "all mass among them",
    ]
    histories = sorted(cost["by_history"].items(), key=lambda point: int(point[0]))
    by_history = ", ".join(f"{1e3 * seconds:.1f} ms at {n}" for n, seconds in histories)
    single = {size: one["one_ms"]["p50"] for size, one in request["by_items"].items()}
    return f"""### What grows with the catalogue

The worker's process, all that it does included (join, learn, judge, publish, checkpoint), takes {worker["per_second"]:,.0f} events a
second from a log that waits for it ({worker["cpu_us_per_event"]:.0f} µs of CPU each; 10,000 items, {worker["slates"]:,} slates).

{_table(head, rows, left=1)}

From 10,000 items on an update grows with the catalogue's size to the power {exponent(cost["by_items"], 9_999):.2f}, a slate to the
power {exponent(single, 9_999):.2f}. By length of history an update takes {by_history} (power {exponent(cost["by_history"]):.2f}).

![costs by catalogue](img/performance-costs.svg)"""


def _million_items(told: Record, slate: Record) -> str:
    return f"""### A million items

From 100,000 items on (`IALP_INDEX_FROM`) candidates come from an index (faiss, extra `index`), whose making takes {slate["index_s"]:.1f} s of a
core for each version; they are ranked again and served by exact scores. With {told["items"]:,} items, histories of {told["history"]}, an API key and the
log, one request at a time by wrk takes {told["alone_ms"]["p50"]:.1f} ms (p50) and {told["alone_ms"]["p99"]:.1f} ms (p99), of which the slate is {slate["one_ms"]["p50"]:.1f}; a Python client
waits {told["one_ms"]["p50"]:.1f} and {told["one_ms"]["p99"]:.1f} ms, for one that names 900 candidates {told["named_ms"]["p50"]:.1f} and {told["named_ms"]["p99"]:.1f} ms. With 32 connections it is
{told["per_second"]:,.0f} requests a second; {told["failed"]} failed.

From a new item's PUT to an answer that has it: {told["new_item_ms"]["p50"]:.0f} ms (p50), at most {told["new_item_ms"]["max"]:.0f} ms. The process holds {told["resident_mib"]:,} MiB,
{told["resident_after_mib"]:,} after load and new items, and {told["peak_mib"]:,} while it starts, pages of files among them; it is ready after {told["again_s"]:.0f} s
({told["first_s"]:.0f} s when the items come into an empty Redis, which then holds {told["redis_mib"]:,} MiB)."""


def _users(told: Record) -> str:
    return f"""### A million users

{told["users"]:,} users with {told["history"]} responses and {told["seen"]} seen items (these among them) take {told["gib"]:.2f} GiB of Redis, that is
{told["gib"] * 2**30 / told["users"]:.0f} bytes each. Both are capped and expire, whatever clients do."""


def _starting(told: Record) -> str:
    sizes = ", ".join(f"{name} {size} MiB" for name, size in told["installed_mib"].items())
    return f"""### Starting

From the start of the process to a policy that answers, with 10,000 items: {median(told["again_s"]):.1f} s, of which imports are
{median(told["import_s"]):.1f} s; {told["first_s"]:.1f} s the first time, when the catalogue comes into an empty Redis. The process then
holds {told["resident_mib"]} MiB. On the disk: {sizes}."""


def _asking(told: Record) -> str:
    at = told["endpoint"]
    return f"""### Asking a language model

Gemma 3 270M judges {told["per_cpu_s"]:.1f} names per CPU second, {told["share_of_ceiling"]:.0%} of what the bare runtime would need for as
many tokens. An endpoint that takes 200 ms is asked {at["most_at_once"]} questions at once when {at["concurrency"]} are allowed, and
{at["questions"]} of them take {at["seconds"]:.1f} s: {at["saturation"]:.0%} of the most that is possible."""


def _machines(told: Record) -> str:
    machines = {tuple(sorted(section["on"].items())) for section in told.values()}
    lines = [
        f"- {dict(m)['cpu']}, {dict(m)['cores']} cores, Python {dict(m)['python']}, torch {dict(m)['torch']}, {dict(m)['date']}"
        for m in sorted(machines)
    ]
    seconds = sum(section["seconds"] for section in told.values())
    return "### Where and when\n\n" + "\n".join(lines) + f"\n\nAll of it takes {seconds / 60:.0f} minutes."


def _table(head: Sequence[str], rows: Iterable[Sequence[str]], left: int) -> str:
    rule = ["---"] * left + ["---:"] * (len(head) - left)
    return "\n".join("| " + " | ".join(row) + " |" for row in (head, rule, *rows))


def main(results: Path, target: Path) -> None:
    """Rewrite the page and its plots."""
    told = json.loads(results.read_text())
    draw(told, target.parent / "img")
    target.write_text(filled(target.read_text(), NAME, WRITER, page(told)))


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
