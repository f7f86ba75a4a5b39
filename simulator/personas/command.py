"""The command `personas`."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.console import Console

from service.command_line import exits
from service.command_line.progress import progress
from service.durable import write_file
from simulator.errors import SimulatorError

if TYPE_CHECKING:
    from service.client import AsyncClient, ServiceError
    from simulator.personas.catalogue import Item
    from simulator.personas.judgement import JudgeConfig, Judgement

ArmName = Literal["control", "adaptive"]
_JUDGED, _SERVICE, _OUTCOME = "What is judged", "The service", "The outcome"
_AT_ONCE = 8  # requests
_TIMEOUT_S = 30.0


_Url = Annotated[str, typer.Option(help="The running service.", rich_help_panel=_SERVICE)]
_ApiKeyFile = Annotated[
    Path | None,
    typer.Option(
        envvar="IALP_API_KEY_FILE",
        help="File with a key of the service; alternatively, set IALP_API_KEY.",
        rich_help_panel=_SERVICE,
    ),
]
_Arm = Annotated[
    ArmName, typer.Option(help="Arm whose policy is judged; control is the pre-trained one.", rich_help_panel=_SERVICE)
]
_Items = Annotated[
    Path | None,
    typer.Option(
        help="Catalogue with the items' categories.", rich_help_panel=_JUDGED, show_default="the service's own"
    ),
]
_K = Annotated[int, typer.Option(min=1, max=100, help="Slots of a slate.", rich_help_panel=_JUDGED)]
_Least = Annotated[
    int, typer.Option(min=4, help="Least number of items of a category that is judged.", rich_help_panel=_JUDGED)
]
_MostLikes = Annotated[
    int,
    typer.Option(min=4, help="Greatest number of likes that is tried; fewer than --least.", rich_help_panel=_JUDGED),
]
_Draws = Annotated[
    int, typer.Option(min=2, help="Draws of the items that are liked, per category.", rich_help_panel=_JUDGED)
]
_Like = Annotated[float, typer.Option(help="Reward of a like, as in IALP_REWARDS.", rich_help_panel=_JUDGED)]
_Dislike = Annotated[float, typer.Option(help="Reward of a dislike, as in IALP_REWARDS.", rich_help_panel=_JUDGED)]
_Seed = Annotated[int, typer.Option(min=0, help="Seed of the draws and slates.", rich_help_panel=_JUDGED)]
_Out = Annotated[
    Path | None,
    typer.Option(help="Folder of the page, such as RUN/personas; without it, no page.", rich_help_panel=_OUTCOME),
]
_Lists = Annotated[bool, typer.Option(help="Print what five persons are shown.", rich_help_panel=_OUTCOME)]
_Require = Annotated[
    int | None,
    typer.Option(min=0, help="Exit with 1 if fewer categories rise with likes.", rich_help_panel=_OUTCOME),
]


def personas(
    url: _Url = "http://127.0.0.1:8000",
    api_key_file: _ApiKeyFile = None,
    arm: _Arm = "adaptive",
    items: _Items = None,
    k: _K = 10,
    least: _Least = 15,
    most_likes: _MostLikes = 10,
    draws: _Draws = 5,
    like: _Like = 1.0,
    dislike: _Dislike = -1.0,
    seed: _Seed = 0,
    out: _Out = None,
    lists: _Lists = True,
    require: _Require = None,
) -> None:
    """Judge by persons whether people get what they like: does a category rise with likes and fall with dislikes?

    Needs: a running service whose items have categories, and an admin key if it asks for one. It only asks for
    previews: nothing is shown, logged or learned.

    Writes: OUT/personas.html and OUT/personas.json.

    Ctrl-C: nothing was written; run the same command again.

    Examples:
        python -m simulator personas
        python -m simulator personas --url http://127.0.0.1:8000 \\
            --out runs/demo/personas --require 12
    """
    from simulator.load.client import check_url, read_api_key
    from simulator.personas.judgement import PAGE_FILE, JudgeConfig
    from simulator.personas.page import page
    from simulator.personas.terminal import print_effects, print_people

    check_url(url, allow_remote=True)
    config = JudgeConfig(arm, k, least, most_likes, draws, like, dislike, seed)
    _check(config)
    judgement = asyncio.run(_judge(url, read_api_key(api_key_file), items, config))
    console = Console()
    if lists:
        print_people(judgement, console)
    print_effects(judgement, console)
    if out is not None:
        judgement.write(out)
        write_file(out / PAGE_FILE, page(judgement).encode())
        console.print(f"report: {out / PAGE_FILE}", soft_wrap=True)
    if require is not None and judgement.rising < require:
        exits.tell(f"{judgement.rising} of {len(judgement.categories)} categories rise with likes; --require {require}")
        raise typer.Exit(exits.FAILED)


def _check(config: JudgeConfig) -> None:
    if config.least <= config.most_likes:
        raise SimulatorError(
            f"--least {config.least}: a category needs more items than --most-likes {config.most_likes} of them"
        )
    if config.like <= 0 or config.dislike >= 0:
        raise SimulatorError(f"--like {config.like:g} --dislike {config.dislike:g}: give one above and one below zero")


async def _judge(url: str, api_key: str | None, items_file: Path | None, config: JudgeConfig) -> Judgement:
    """Ask a deployment; every answer that is no success becomes one line that says what to do."""
    from service.client import AsyncClient, ServiceError
    from simulator.load.client import is_loopback

    client = AsyncClient(
        url,
        api_key=api_key,
        timeout_s=_TIMEOUT_S,
        connections=_AT_ONCE,
        seed=config.seed,
        trust_env=not is_loopback(url),  # a proxy knows no other machine's loopback
    )
    try:
        async with client:
            return await _judge_by(client, url, items_file, config)
    except ServiceError as error:
        raise SimulatorError(_explain(error)) from None


async def _judge_by(client: AsyncClient, url: str, items_file: Path | None, config: JudgeConfig) -> Judgement:
    from simulator.personas.catalogue import categories_of, pairs_of
    from simulator.personas.judgement import judge, requests_for
    from simulator.personas.people import people_of
    from simulator.personas.probe import Probe

    await client.preview(k=1)  # before anything that takes time
    items = await _items(client, items_file)
    categories = categories_of(items, config.least, is_listed=items_file is None)
    pairs = pairs_of(items, categories, config.least)
    people = people_of(items, categories, config.seed)
    total = requests_for(categories, pairs, people, config)
    with progress("asking", total, "previews") as bar:
        probe = Probe(client, config.arm, config.k, config.like, config.dislike, advance=bar.advance)
        return await judge(probe, items, categories, pairs, people, config, url)


async def _items(client: AsyncClient, file: Path | None) -> list[Item]:
    from simulator.personas.catalogue import items_of_file, items_of_service

    if file is None:
        with progress("reading the catalogue", None, "items") as bar:
            return await items_of_service(client, bar.advance)
    items = items_of_file(file)
    preview = await client.preview(item_ids=[item.item_id for item in items[:1_000]])
    if not preview.items:
        raise SimulatorError(f"--items {file}: the service has none of its items")
    return items


def _explain(error: ServiceError) -> str:
    from service.client.calls import NO_CONNECTION

    explanations = {
        NO_CONNECTION: "no service answers at --url; start one with `python -m service dev --snapshot DIR`",
        "401": "this service asks for another API key: --api-key-file or IALP_API_KEY",
        "403": "this needs an API key with the scope admin: --api-key-file or IALP_API_KEY",
        "404": "this service has no /preview: it is older than this command, or --url is not that of this service",
    }
    return explanations.get(error.status, str(error))
