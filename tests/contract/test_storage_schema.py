"""The schema, on every backend."""

from __future__ import annotations

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext

from tuner_server.core.errors import StorageError
from tuner_server.storage import Database, Upgrade, open_storage, upgrade_schema
from tuner_server.storage.schema import VERSION_TABLE, head_version
from tuner_server.storage.tables import Base


def test_the_migrations_lead_to_the_tables(database_url: str) -> None:
    with Database(database_url) as database:
        assert upgrade_schema(database) == Upgrade(None, head_version())
        with database.reading() as connection:
            context = MigrationContext.configure(
                connection, opts={"version_table": VERSION_TABLE, "compare_type": True}
            )
            assert compare_metadata(context, Base.metadata) == []


def test_a_shared_database_is_upgraded_only_when_asked(postgresql_url: str) -> None:
    with pytest.raises(StorageError, match="lrpilot db upgrade"):
        open_storage(postgresql_url)
    open_storage(postgresql_url, upgrade=True).close()
    with open_storage(postgresql_url) as storage:
        assert storage.page("default", 1).jobs == ()
