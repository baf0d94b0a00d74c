"""`lrpilot config`, and the flags of all settings."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from rich import box
from rich.table import Table

from tuner_server.access.expiry import expiries
from tuner_server.base.clock import utc_now
from tuner_server.base.terminal import Terminal
from tuner_server.cli.common import JsonOption, print_json
from tuner_server.core.errors import InvalidInputError
from tuner_server.process.reloading import tls_files
from tuner_server.process.settings import CONFIG, EffectiveSettings, ServerSettings, flag, load, variable

app = typer.Typer()


def with_settings(command: Callable[..., None]) -> Callable[..., None]:
    """Gives a command a flag for each setting, and one for the file; it gets them as keywords, None if not given."""
    own = inspect.signature(command, eval_str=True)
    kept = [parameter for parameter in own.parameters.values() if parameter.kind is not parameter.VAR_KEYWORD]
    config_help = f"A TOML file with settings. [env var: {variable(CONFIG)}]"
    added = {CONFIG: Annotated[Path | None, typer.Option(flag(CONFIG), help=config_help)]}
    for name, field in ServerSettings.model_fields.items():
        default = "" if field.default_factory or field.default in (None, False, "") else f", default: {field.default}"
        text = f"{field.description} [env var: {variable(name)}{default}]"
        # Any value that pydantic will look at; Typer shows what is behind a flag by its type.
        kind = field.annotation if field.annotation in (bool, int, float, Path) else str
        added[name] = Annotated[kind | None, typer.Option(flag(name), help=text)]
    parameters = kept + [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)
        for name, annotation in added.items()
    ]
    command.__signature__ = own.replace(parameters=parameters)  # type: ignore[attr-defined]  # what `inspect` looks for
    command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return command


def effective(flags: dict[str, Any]) -> EffectiveSettings:
    """The settings of this process. Raises: InvalidInputError."""
    return load(flags, os.environ)


@app.command(epilog="Example: `lrpilot config --config lrpilot.toml --json`")
@with_settings
def config(as_json: JsonOption = False, **flags: Any) -> None:
    """Print the settings that `serve` would have, and where each comes from. Passwords are left out."""
    found = effective(flags)
    values = found.settings.shown()
    ends = _certificate_ends(found.settings)
    if as_json:
        print_json(
            {
                name: {"value": value, "from": found.origins[name], **({"end": ends[name]} if name in ends else {})}
                for name, value in values.items()
            }
        )
        return
    table = Table(box=box.SIMPLE)
    for heading in ("setting", "value", "from"):
        table.add_column(heading, overflow="fold")
    for name, value in values.items():
        shown = "-" if value in (None, "") else str(value)
        table.add_row(name, f"{shown} ({ends[name]})" if name in ends else shown, found.origins[name])
    Terminal().print(table)


def _certificate_ends(settings: ServerSettings) -> dict[str, str]:
    """When the certificates end, by setting; or why they can't be read."""
    files = tls_files(settings)
    if files is None:
        return {}
    now = utc_now()
    try:
        return {expiry.setting: expiry.words(now) for expiry in expiries(files, now)}
    except InvalidInputError as error:
        return {violation.field: violation.description for violation in error.violations}
