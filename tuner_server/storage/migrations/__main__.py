"""Writes the next migration, from what `tables.py` has and the migrations so far don't.

python -m tuner_server.storage.migrations "what it is for"
"""

import sys
import tempfile

import alembic.command

from tuner_server.storage.database import Database
from tuner_server.storage.schema import head_version, migration_config, upgrade_schema

if len(sys.argv) != 2:
    sys.exit(__doc__)
with (
    tempfile.TemporaryDirectory() as directory,
    Database(f"sqlite:///{directory}/head.db") as database,
):
    upgrade_schema(database)
    with database.reading() as connection:
        alembic.command.revision(
            migration_config(connection),
            message=sys.argv[1],
            autogenerate=True,
            rev_id=f"{int(head_version()) + 1:04}",
        )
