"""`lrpilot tokens`: who may act for a project. It works on the database itself."""

from __future__ import annotations

import datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich import box
from rich.table import Table

from tuner_server.access.principal import Scope
from tuner_server.access.records import TokenRecord
from tuner_server.access.token import Token
from tuner_server.base import streams
from tuner_server.base.clock import utc_now
from tuner_server.base.terminal import Terminal
from tuner_server.cli.common import DbOption, JsonOption, default_db, print_json
from tuner_server.cli.telling import hand_over, tell_done

if TYPE_CHECKING:
    from collections.abc import Sequence

app = typer.Typer(help="Tokens, with which clients act for a project.", no_args_is_help=True)

MAX_DAYS = 3650
"""A token that is meant to last longer is one without an end."""


@app.command(epilog="Example: `lrpilot tokens create --project vision --scope train --expires-days 90 > token`")
def create(
    project: Annotated[str, typer.Option(help="The project that it acts for.")],
    scope: Annotated[
        list[Scope],
        typer.Option(
            metavar="SCOPE",
            help="train: run jobs; read: look at them; cancel: end their tuning; plan: change their plan; edit: name "
            "and annotate them; delete: delete them. May be repeated.",
        ),
    ],
    name: Annotated[str, typer.Option(help="Whose it is, or where it is used; for people.")] = "",
    expires_days: Annotated[
        float | None, typer.Option(min=0, max=MAX_DAYS, help="Days until it ends; without, until it is revoked.")
    ] = None,
    db: DbOption = "",
) -> None:
    """Make a token and print it, this once: it is not kept. One that can't be printed is not made."""
    from tuner_server.storage.access import open_access

    now = utc_now()
    expire_time = None if expires_days is None else now + datetime.timedelta(days=expires_days)
    token = Token.new()
    record = TokenRecord.issued(token, project, name, scope, now, expire_time)
    until = f"until {expire_time:%Y-%m-%d %H:%M} UTC" if expire_time else "until it is revoked"
    scopes = ", ".join(sorted(record.scopes))
    with open_access(db or default_db()) as access:
        access.create_token(record)
        try:
            hand_over(token.text)
        except BaseException:  # an interrupt too: a token that nobody has seen would open the project for as long
            access.delete_token(token.id)
            raise
    streams.complain(f"token {token.id} for project {project} ({scopes}), {until}; it is shown only now")


@app.command("list", epilog="Example: `lrpilot tokens list --project vision --json`")
def list_(
    project: Annotated[str | None, typer.Option(help="Only those of this project.")] = None,
    as_json: JsonOption = False,
    db: DbOption = "",
) -> None:
    """List tokens, without their secrets."""
    from tuner_server.storage.access import open_access

    with open_access(db or default_db()) as access:
        tokens = access.tokens(project)
    if as_json:
        print_json([_facts(token) for token in tokens])
        return
    _print_table(tokens, utc_now())


@app.command(epilog="Example: `lrpilot tokens revoke 3f2a90c1d4e5`")
def revoke(
    token_id: Annotated[str, typer.Argument(metavar="ID", help="As `lrpilot tokens list` shows it.")], db: DbOption = ""
) -> None:
    """End a token. Servers refuse it within seconds, and end its streams."""
    from tuner_server.storage.access import open_access

    with open_access(db or default_db()) as access:
        token = access.revoke_token(token_id, utc_now())
    tell_done(f"{token.id} revoked")


def _facts(token: TokenRecord) -> dict[str, Any]:
    return {
        "id": token.id,
        "project": token.project,
        "name": token.name,
        "scopes": sorted(token.scopes),
        "create_time": token.create_time.isoformat(),
        "expire_time": token.expire_time and token.expire_time.isoformat(),
        "revoke_time": token.revoke_time and token.revoke_time.isoformat(),
    }


def _print_table(tokens: Sequence[TokenRecord], now: datetime.datetime) -> None:
    table = Table("id", "project", "name", "scopes", "created", "state", box=box.SIMPLE)
    for token in tokens:
        created = f"{token.create_time:%Y-%m-%d %H:%M}"
        table.add_row(
            token.id, token.project, token.name or "-", ", ".join(sorted(token.scopes)), created, _state(token, now)
        )
    Terminal().print(table if tokens else "no tokens")


def _state(token: TokenRecord, now: datetime.datetime) -> str:
    if token.revoke_time is not None:
        return f"revoked {token.revoke_time:%Y-%m-%d %H:%M}"
    if token.expire_time is None:
        return "valid"
    word = "expired" if token.expire_time <= now else "until"
    return f"{word} {token.expire_time:%Y-%m-%d %H:%M}"
