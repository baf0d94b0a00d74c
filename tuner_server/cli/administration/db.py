"""`lrpilot db`: what is done to a database itself, beside the servers that use it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from tuner_server.cli.common import DbOption, default_db
from tuner_server.cli.telling import tell_done

app = typer.Typer(help="The database.", no_args_is_help=True)


@app.command(epilog="Example: `lrpilot db upgrade --db postgresql://lrpilot@db/lrpilot`")
def upgrade(db: DbOption = "") -> None:
    """Bring a database to this version's schema."""
    from tuner_server.storage import Database, upgrade_schema  # brings SQLAlchemy

    with Database(db or default_db()) as database:
        done = upgrade_schema(database)
    before = done.before or "nothing"
    tell_done(f"{database.label}: {'already at' if done.before == done.after else f'from {before} to'} {done.after}")


@app.command(epilog="Example: `lrpilot db backup -o jobs-2026-11-24.db --db sqlite:////var/lib/lrpilot/jobs.db`")
def backup(
    output: Annotated[Path, typer.Option("-o", "--output", help="The file to write; it must not exist yet.")],
    db: DbOption = "",
) -> None:
    """Copy a database, also while servers use it, and verify the copy; `lrpilot db restore` puts it back."""
    from tuner_server.storage import Database
    from tuner_server.storage.backups.backup import backup as copy

    with Database(db or default_db()) as database:
        unnoted = copy(database, output)
    tell_done(f"{database.label}: copied to {output}, {output.stat().st_size} bytes, verified")
    if unnoted:
        print(f"lrpilot: the backup is sound, but the database could not note when it was: {unnoted}", file=sys.stderr)


@app.command(epilog="Example: `lrpilot db restore jobs-2026-11-24.db --db sqlite:////var/lib/lrpilot/jobs.db`")
def restore(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="What `lrpilot db backup` wrote.", show_default=False)],
    db: DbOption = "",
) -> None:
    """Put a backup in the place of a database: all of it or nothing. Stop the servers first."""
    from tuner_server.storage import Database
    from tuner_server.storage.backups.restore import restore as put_back

    with Database(db or default_db()) as database:
        former = put_back(database, file)
    kept = f"; the former database is {former}" if former else ""
    tell_done(f"{database.label}: restored from {file}{kept}")


@app.command(epilog="Example: `lrpilot db compact --db sqlite:////var/lib/lrpilot/jobs.db`")
def compact(db: DbOption = "") -> None:
    """Give back the space of deleted jobs. Servers go on meanwhile."""
    from tuner_server.storage import Database, open_storage
    from tuner_server.storage.compaction import compact as shrink

    url = db or default_db()
    open_storage(url).close()
    with Database(url) as database:
        done = shrink(database)
    tell_done(f"{database.label}: {done}")
