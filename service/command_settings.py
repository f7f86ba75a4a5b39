"""Settings for a command of ours: a mistake is one line on stderr and exit code 2."""

from __future__ import annotations

import typer
from pydantic import ValidationError
from pydantic_settings import SettingsError

from service import embedded
from service.settings import Settings


def settings_or_exit() -> Settings:
    """The settings of the environment; raises typer.Exit(2) if they are wrong, having said which."""
    try:
        return Settings()
    except SettingsError as error:  # a value that should be JSON and is not; the message names the field
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(2) from None
    except ValidationError as error:
        for item in error.errors():
            name = "_".join(str(part) for part in item["loc"]).upper()
            typer.echo(f"error: setting {name.removeprefix('IALP_')}: {item['msg']}", err=True)
        raise typer.Exit(2) from None


def settings_of_what_runs() -> Settings:
    """The same, for a command about a deployment: without REDIS_URL, that of a `service dev` on this `data_dir`."""
    settings = settings_or_exit()
    if "redis_url" in settings.model_fields_set:
        return settings
    url = embedded.found(settings.data_dir / "redis")
    return settings if url is None else settings.model_copy(update={"redis_url": url})
