"""Settings for a command of ours: mistakes are one line on stderr, named by their variables, and exit code 2."""

from __future__ import annotations

import difflib
import os
from typing import TYPE_CHECKING, NoReturn

import typer
from pydantic import ValidationError
from pydantic_settings import SettingsError

from service.command_line.exits import MISTAKE, tell
from service.runtime import embedded

if TYPE_CHECKING:
    from service.settings import Settings

_PREFIX = "IALP_"
_FIX = "change it or leave it out"
_NO_SETTINGS = ("IALP_API_KEY", "IALP_API_KEY_FILE", "IALP_DATA", "IALP_LONG", "IALP_SUPERVISED")  # read elsewhere


def settings_or_exit() -> Settings:
    """Read the settings of the environment; raises typer.Exit(2) if they are wrong, after a line for each."""
    from service.settings import Settings  # takes torch along, which `--help` need not wait for

    for name in sorted(os.environ):
        if name.startswith(_PREFIX) and name.removeprefix(_PREFIX).lower() not in Settings.model_fields:
            _warn(name, [variable((field,)) for field in Settings.model_fields])
    try:
        return Settings()
    except SettingsError as error:  # a value that should be JSON and is not; the message names the field
        field = next((name for name in Settings.model_fields if f'"{name}"' in str(error)), None)
        refuse([f"setting {variable((field,))}: is not valid JSON; {_FIX}" if field else str(error)])
    except ValidationError as error:
        refuse([f"setting {variable(item['loc'])}: {_plain(item['msg'])}; {_FIX}" for item in error.errors()])


def _warn(name: str, known: list[str]) -> None:
    if name not in _NO_SETTINGS:
        close = difflib.get_close_matches(name, known, 1)
        typer.echo(f"warning: {name} is not a setting{f'; did you mean {close[0]}?' if close else ''}", err=True)


def variable(place: tuple[int | str, ...]) -> str:
    """Name the environment variable of a setting, and the key in it if there is one."""
    if not place:
        return "IALP_LEARNER_CONFIG"  # only hyper-parameters are checked with all settings at hand
    name, *keys = map(str, place)
    name = name.upper().removeprefix(_PREFIX)
    return (name if name == "REDIS_URL" else _PREFIX + name) + "".join(f"[{key}]" for key in keys)


def refuse(messages: list[str]) -> NoReturn:
    """Print mistakes, each on a line, and exit."""
    for message in messages:
        tell(message)
    raise typer.Exit(MISTAKE) from None


def _plain(message: str) -> str:
    return message.removeprefix("Value error, ")


def settings_of_what_runs() -> Settings:
    """Read the settings for a command about a deployment; without REDIS_URL, look for a `service dev` on `data_dir`."""
    settings = settings_or_exit()
    if "redis_url" in settings.model_fields_set:
        return settings
    url = embedded.found(settings.data_dir / "redis")
    return settings if url is None else settings.model_copy(update={"redis_url": url})
