"""`lrpilot db`: what is done to a database itself, beside the servers that use it."""

from __future__ import annotations

import typer

from tuner_server.cli.common import DbOption, default_db

app = typer.Typer(help="The database.", no_args_is_help=True)


@app.command(epilog="Example: `lrpilot db upgrade --db postgresql://lrpilot@db/lrpilot`")
def upgrade(db: DbOption = "") -> None:
    """Bring a database to this version's schema."""
    from tuner_server.storage import Database, upgrade_schema  # brings PyTorch, as in `serve`

    with Database(db or default_db()) as database:
        done = upgrade_schema(database)
    before = done.before or "nothing"
    print(f"{database.label}: {'already at' if done.before == done.after else f'from {before} to'} {done.after}")
